"""Interruption of a run: SIGINT and SIGTERM set a flag that the loop checks after each step; before it, they raise."""

import os
import signal
import threading
import time
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


SECOND_SIGNAL_SECONDS = 5.0
"""What a second signal leaves for the program to clean up."""


def end_at_second_signal() -> None:
    """From now on, end the process some seconds after its second SIGINT or SIGTERM, whatever it waits for.

    Python runs a signal's handler in the main thread, between two of its instructions: one that waits inside a library,
    for a device or a lost file system, never does. A thread hears of the signals through a pipe instead.
    """
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    # A child of fork has the pipe, but not the thread; its signals are its own.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    threading.Thread(target=_end_at_second, args=(receiver,), name="second signal", daemon=True).start()


def _end_at_second(receiver: int) -> None:
    received = 0
    while number := os.read(receiver, 1):
        received += number[0] in (signal.SIGINT, signal.SIGTERM)
        if received == 2:
            time.sleep(SECOND_SIGNAL_SECONDS)
            os._exit(128 + number[0])


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

    @property
    def name(self) -> str:
        """Name of the signal received: `SIGTERM`."""
        return signal.Signals(self.received).name if self.received else "no signal"

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
