"""Results of `simsiam bench loader`: one JSON object a row, its rate next to ceiling, baseline and what a GPU takes."""

from collections.abc import Sequence

from simsiam.train.bench.loader_row import FirstEpoch, Round
from simsiam.train.bench.rates import Result, compare, mean_rate, percent_of, rate_of, speed_of
from simsiam.train.bench.turns import Measurement

LoaderMeasurement = Measurement[FirstEpoch, Round]


def results_of(
    measurements: Sequence[LoaderMeasurement], cores: int, baseline: str | None, needed_images_per_second: float
) -> list[Result]:
    """Return a result for each row; the last row is the ceiling.

    `images_per_second` is the median window's, and `images_per_second_20_80` what 20 % and 80 % of them stay below.
    `first_epoch_images_per_second` is that of the first pass over the images, or of the part there was time for.
    `percent_of_synthetic` and `times_baseline` are medians over the rounds of the ratio within a round, since the
    speed of a machine drifts; `times_baseline_range` is its least and its largest. `wait_percent` is the share of its
    time that a GPU which takes `needed_images_per_second` would wait for this row.
    """
    named = {each.name: each for each in measurements}
    results = []
    for each in measurements:
        result = _result(each, cores, needed_images_per_second)
        result["percent_of_synthetic"] = percent_of(each, measurements[-1])
        if baseline:
            result |= compare(each, named[baseline])
        results.append(result)
    return results


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
