"""Interruption of a run: SIGINT and SIGTERM set a flag that the loop checks after each step; before it, they raise."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType


class Interrupted(Exception):
    """A signal, `signal_number`, stopped the run: after it was saved in `run_dir`, or before its first step."""

    def __init__(self, signal_number: int, run_dir: Path | None = None) -> None:
        how = "with no step lost" if run_dir is None else f"and saved; resume with: simsiam pretrain {run_dir}"
        super().__init__(f"stopped by {signal.Signals(signal_number).name} {how}")
        self.signal_number = signal_number


class Terminated(KeyboardInterrupt):
    """SIGTERM ended a command. It is handled like SIGINT, with the same cleanup and messages."""


def terminate(number: int, frame: FrameType | None) -> None:
    """Raise Terminated; the handler of SIGTERM."""
    raise Terminated


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let SIGTERM raise Interrupted in this block, as SIGINT raises KeyboardInterrupt: there is no step to finish."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopSignals:
    """Stores the first SIGINT or SIGTERM in `received`; a second one of either ends the process at once."""

    received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for either in self._before:
            signal.signal(either, signal.SIG_DFL)
