"""Rates of a bench's rows: images per second of their windows, and how they compare with another row."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from simsiam.train.bench.turns import Measurement
from simsiam.train.bench.windows import Window

Result = dict[str, Any]
"""What a bench tells of one row, ready for JSON."""


class Rate(NamedTuple):
    """Images per second: the median of the windows, and what 20 % and 80 % of them stay below."""

    median: float
    low: float
    high: float


def rate_of(windows: Sequence[Window]) -> Rate:
    """Return the rate of single windows.

    Windows and not batches: batches that several workers prepare arrive in bursts, most within microseconds and the
    others after a long wait, and no quantile of these says what a consumer gets.
    """
    rates = [window.images / window.seconds for window in windows]
    low, median, high = (float(np.percentile(rates, share)) for share in (20, 50, 80))
    return Rate(median, low, high)


def mean_rate(windows: Sequence[Window]) -> float:
    """Return images per second over all windows together."""
    return sum(window.images for window in windows) / sum(window.seconds for window in windows)


def speed_of(windows_of_rounds: Sequence[Sequence[Window]]) -> Result:
    """Return images and views per second of the median window, their spread, and the rate of each round."""
    windows = [window for windows in windows_of_rounds for window in windows]
    rate = rate_of(windows)
    return {
        "images_per_second": round(rate.median, 1),
        "images_per_second_20_80": [round(rate.low, 1), round(rate.high, 1)],
        "views_per_second": round(2 * rate.median, 1),
        "images_per_second_by_round": [round(mean_rate(windows), 1) for windows in windows_of_rounds],
        "windows": len(windows),
        "seconds": round(sum(window.seconds for window in windows), 2),
    }


def percent_of(row: Measurement[Any, Any], ceiling: Measurement[Any, Any]) -> float:
    """Return the median over the rounds of a row's share of the ceiling's rate in the same round, in percent."""
    return round(100 * statistics.median(_ratios(row, ceiling)), 2)


def compare(row: Measurement[Any, Any], baseline: Measurement[Any, Any]) -> Result:
    """Return the median over the rounds of the ratio to the baseline's rate in the same round, its least and largest.

    Ratios are taken within a round since the speed of a machine drifts.
    """
    times = _ratios(row, baseline)
    return {
        "baseline": baseline.name,
        "times_baseline": round(statistics.median(times), 2),
        "times_baseline_range": [round(min(times), 2), round(max(times), 2)],
    }


def _ratios(row: Measurement[Any, Any], other: Measurement[Any, Any]) -> list[float]:
    pairs = zip(row.rounds, other.rounds, strict=True)
    return [mean_rate(turn.windows) / mean_rate(same_turn.windows) for turn, same_turn in pairs]
