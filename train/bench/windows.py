"""Windows of time in which batches arrive: how many images in how many seconds."""

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from simsiam.pipeline.errors import UsageError


def check_positive(**numbers: float) -> None:
    """Raise UsageError for a number, named by its keyword, that isn't positive and finite."""
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise UsageError(f"{name} is {value}; give a positive number.")


class Window(NamedTuple):
    """What arrived in a stretch of time."""

    images: int
    seconds: float


def time_window(
    batches: Iterator[int],
    seconds: float,
    *,
    least: int = 1,
    most: int | None = None,
    synchronize: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Window:
    """Take batches, each the number of its images, until `seconds` are over and `least` were taken, or `most` were.

    A window ends with a batch, so it holds whole ones. `synchronize` waits for the device before the clock is read at
    the two ends of the window, nowhere between.
    """
    synchronize()
    started = clock()
    images, taken = 0, 0
    while taken != most and (taken < least or clock() - started < seconds):
        images += next(batches)
        taken += 1
    synchronize()
    return Window(images, clock() - started)


def time_windows(
    batches: Iterator[int],
    seconds: float,
    window_seconds: float,
    *,
    least: int,
    synchronize: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Window]:
    """Take windows of `window_seconds` and `least` batches until they last `seconds` together."""
    windows: list[Window] = []
    while sum(window.seconds for window in windows) < seconds:
        windows.append(time_window(batches, window_seconds, least=least, synchronize=synchronize, clock=clock))
    return windows
