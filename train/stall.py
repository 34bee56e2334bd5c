"""Stall: a loader that delivers nothing is told, and after a while stopped; a signal need not wait for it."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from simsiam.pipeline.errors import RunError
from simsiam.train.interruption import StopSignals

TOLD_AFTER_SECONDS = 60.0
"""Wait for one batch after which the user is told."""
STOPPED_AFTER_SECONDS = 1800.0
"""Wait for one batch after which the run ends: longer than a network file system is away when its server restarts."""
OBEYED_AFTER_SECONDS = 10.0
"""Wait for one batch after which a signal ends the run without a further step; most steps are shorter."""


class Stalled(RunError):
    """The loader has delivered nothing for a long time."""


class StoppedWhileWaiting(Exception):
    """A signal came, and the batch that it should be obeyed after doesn't."""


class StallWatch:
    """Watches each wait for a batch: `with watch: batch = next(batches)`, in the main thread.

    The system's timer interrupts the wait, whatever thread or process the loader waits for, as long as it waits in
    Python. `tell` is called once in a wait that lasts a minute. Raises Stalled after half an hour, StoppedWhileWaiting
    when `signals` has received one and no batch follows.
    """

    def __init__(self, signals: StopSignals, tell: Callable[[str], None]) -> None:
        self._signals, self._tell = signals, tell
        self._before = signal.signal(signal.SIGALRM, self._look)
        self._asked = 0.0
        self._told = False

    def close(self) -> None:
        """Leave the timer to others."""
        signal.signal(signal.SIGALRM, self._before)

    def __enter__(self) -> Self:
        self._asked, self._told = time.monotonic(), False
        interval = OBEYED_AFTER_SECONDS / 2
        signal.setitimer(signal.ITIMER_REAL, interval, interval)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, number: int, frame: FrameType | None) -> None:
        waited = time.monotonic() - self._asked
        if self._signals.received and waited >= OBEYED_AFTER_SECONDS:
            raise StoppedWhileWaiting
        if waited >= STOPPED_AFTER_SECONDS:
            raise Stalled(
                f"No images came for {waited / 60:.0f} minutes, so the loader is stuck: is the disk or network file"
                " system of the images still there, and is there memory left?"
            )
        if waited >= TOLD_AFTER_SECONDS and not self._told:
            self._told = True
            self._tell(
                f"No images have come for {waited:.0f} s; the run ends if none come for"
                f" {STOPPED_AFTER_SECONDS / 60:.0f} minutes."
            )
