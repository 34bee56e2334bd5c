"""SIGINT and SIGTERM → a flag that the training loop looks at between two steps."""

import signal
from pathlib import Path
from types import FrameType


class Interrupted(Exception):
    """The run in `run_dir` was stopped by a signal, after it had been saved; `signal_number` says which."""

    def __init__(self, signal_number: int, run_dir: Path) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} and saved; go on with: simsiam pretrain {run_dir}"
        )
        self.signal_number = signal_number


class StopSignals:
    """Remembers the first SIGINT or SIGTERM in `received`; a second one of either ends the process at once."""

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
