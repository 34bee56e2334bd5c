"""Batches as they arrive → images in windows of time, and the rate that they make."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Window(NamedTuple):
    """What arrived in a stretch of time."""

    images: int
    seconds: float


class Rate(NamedTuple):
    """Images per second in the middle window, and in those that 20 % and 80 % of the windows stay below."""

    median: float
    low: float
    high: float


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
    its two ends, nowhere between.
    """
    synchronize()
    began = clock()
    images, taken = 0, 0
    while taken != most and (taken < least or clock() - began < seconds):
        images += next(batches)
        taken += 1
    synchronize()
    return Window(images, clock() - began)


def time_windows(batches: Iterator[int], seconds: float, window_seconds: float, least: int, **clocks) -> list[Window]:
    """Take windows of `window_seconds` and `least` batches until they last `seconds` together."""
    windows: list[Window] = []
    while sum(window.seconds for window in windows) < seconds:
        windows.append(time_window(batches, window_seconds, least=least, **clocks))
    return windows


def rate_of(windows: Sequence[Window]) -> Rate:
    """Return the rate of single windows.

    Windows and not batches, since batches that several workers make ahead arrive in bursts: most within microseconds,
    the others after a long wait, and no quantile of these says what a consumer gets.
    """
    rates = [window.images / window.seconds for window in windows]
    low, median, high = (float(np.percentile(rates, share)) for share in (20, 50, 80))
    return Rate(median, low, high)


def mean_rate(windows: Sequence[Window]) -> float:
    """Return images per second over all windows together."""
    return sum(window.images for window in windows) / sum(window.seconds for window in windows)
