"""What was measured of each row → one JSON object a row, beside ceiling, baseline and what a GPU needs."""

import statistics
from collections.abc import Sequence
from typing import Any

from simsiam.train.bench.loader_row import FirstEpoch, Round
from simsiam.train.bench.turns import Measurement
from simsiam.train.bench.windows import Window, mean_rate, rate_of

Result = dict[str, Any]
LoaderMeasurement = Measurement[FirstEpoch, Round]


def results_of(
    measurements: Sequence[LoaderMeasurement], cores: int, baseline: str | None, needed_images_per_second: float
) -> list[Result]:
    """Return a result for each row; the last row is the ceiling.

    `images_per_second` is the middle window's, and `images_per_second_20_80` what 20 % and 80 % of them stay below.
    `first_epoch_images_per_second` is that of the first pass over the images, or of the part there was time for.
    `percent_of_synthetic` and `times_baseline` are medians over the rounds of the ratio within a round, since the
    speed of a machine drifts; `times_baseline_range` is its least and its largest. `wait_percent` is how much of its
    time a GPU that takes `needed_images_per_second` would wait for this row.
    """
    named = {each.name: each for each in measurements}
    results = []
    for each in measurements:
        result = _result(each, cores, needed_images_per_second)
        result["percent_of_synthetic"] = round(100 * statistics.median(ratios(each, measurements[-1])), 2)
        if baseline:
            result |= compare(each, named[baseline])
        results.append(result)
    return results


def speed_of(windows_of_rounds: Sequence[Sequence[Window]]) -> Result:
    """Return images and views per second of the middle window, their spread, and the rate of each round."""
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


def ratios(row: Measurement[Any, Any], other: Measurement[Any, Any]) -> list[float]:
    """Return how many times as fast as the other a row was in each round; a round has `windows`."""
    pairs = zip(row.rounds, other.rounds, strict=True)
    return [mean_rate(turn.windows) / mean_rate(same_turn.windows) for turn, same_turn in pairs]


def compare(row: Measurement[Any, Any], baseline: Measurement[Any, Any]) -> Result:
    """Return the median over the rounds of the ratio to the baseline within a round, its least and its largest."""
    times = ratios(row, baseline)
    return {
        "baseline": baseline.name,
        "times_baseline": round(statistics.median(times), 2),
        "times_baseline_range": [round(min(times), 2), round(max(times), 2)],
    }


def _result(measurement: LoaderMeasurement, cores: int, needed: float) -> Result:
    windows_of_rounds = [turn.windows for turn in measurement.rounds]
    windows = [window for windows in windows_of_rounds for window in windows]
    images, seconds = sum(window.images for window in windows), sum(window.seconds for window in windows)
    cpu_seconds = sum(turn.cpu_seconds for turn in measurement.rounds)
    rate, first = rate_of(windows), measurement.first
    return {
        "name": measurement.name,
        **speed_of(windows_of_rounds),
        "opening_seconds": round(first.opening_seconds, 2),
        "first_epoch_images_per_second": round(mean_rate([first.window]), 1),
        "needed_images_per_second": needed,
        "wait_percent": round(max(0.0, 100 * (1 - rate.median / needed)), 1),
        "cpu_milliseconds_per_image": round(1000 * cpu_seconds / images, 3),
        "cpu_percent_of_cores": round(100 * cpu_seconds / seconds / cores, 1),
        "peak_memory_mib": round(measurement.peak_memory_bytes / 2**20, 1),
    }
