"""What was measured of each row → one JSON object a row, beside ceiling, baseline and what a GPU needs."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from simsiam.train.bench_row import FirstEpoch, Round
from simsiam.train.bench_windows import mean_rate, rate_of

Result = dict[str, Any]


class Measurement(NamedTuple):
    """All that was measured of a row."""

    name: str
    first_epoch: FirstEpoch
    rounds: Sequence[Round]
    peak_memory_bytes: int


def results_of(
    measurements: Sequence[Measurement], cores: int, baseline: str | None, needed_images_per_second: float
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
        result["percent_of_synthetic"] = round(100 * statistics.median(_ratios(each, measurements[-1])), 2)
        if baseline:
            ratios = _ratios(each, named[baseline])
            result["baseline"] = baseline
            result["times_baseline"] = round(statistics.median(ratios), 2)
            result["times_baseline_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
        results.append(result)
    return results


def _result(measurement: Measurement, cores: int, needed: float) -> Result:
    windows = [window for turn in measurement.rounds for window in turn.windows]
    images, seconds = sum(window.images for window in windows), sum(window.seconds for window in windows)
    cpu_seconds = sum(turn.cpu_seconds for turn in measurement.rounds)
    rate, first = rate_of(windows), measurement.first_epoch
    return {
        "name": measurement.name,
        "images_per_second": round(rate.median, 1),
        "images_per_second_20_80": [round(rate.low, 1), round(rate.high, 1)],
        "views_per_second": round(2 * rate.median, 1),
        "images_per_second_by_round": [round(mean_rate(turn.windows), 1) for turn in measurement.rounds],
        "windows": len(windows),
        "seconds": round(seconds, 2),
        "opening_seconds": round(first.opening_seconds, 2),
        "first_epoch_images_per_second": round(mean_rate([first.window]), 1),
        "needed_images_per_second": needed,
        "wait_percent": round(max(0.0, 100 * (1 - rate.median / needed)), 1),
        "cpu_milliseconds_per_image": round(1000 * cpu_seconds / images, 3),
        "cpu_percent_of_cores": round(100 * cpu_seconds / seconds / cores, 1),
        "peak_memory_mib": round(measurement.peak_memory_bytes / 2**20, 1),
    }


def _ratios(row: Measurement, other: Measurement) -> list[float]:
    pairs = zip(row.rounds, other.rounds, strict=True)
    return [mean_rate(turn.windows) / mean_rate(same_turn.windows) for turn, same_turn in pairs]
