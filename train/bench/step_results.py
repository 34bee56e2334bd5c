"""Results of `simsiam bench step` and `bench train`: one JSON object a row, with its rate, wait, work and bounds."""

from collections.abc import Sequence

from simsiam.train.bench.rates import Result, compare, percent_of, rate_of, speed_of
from simsiam.train.bench.step_row import FirstSteps, StepRound
from simsiam.train.bench.step_stages import Products
from simsiam.train.bench.turns import Measurement

StepMeasurement = Measurement[FirstSteps, StepRound]


def step_results_of(
    measurements: Sequence[StepMeasurement], batch_size: int, baseline: str | None, ceiling: str | None = None
) -> list[Result]:
    """Return a result for each row.

    `images_per_second` is the median window's, and `images_per_second_20_80` what 20 % and 80 % of them stay below.
    `stage_milliseconds` come from steps apart, `milliseconds_per_step` from the middle window, and so does all that
    follows. `tflop_per_step` is what the row multiplies: ours leaves padding out on a CPU, where maps are small.
    `percent_of_products` is the share of `product_tflops_per_second`, the most that large matrix products in the row's
    precision reached in any row of that precision, at which the step computes; `percent_of_memory_bound` the share of
    the rate at which a GPU could move the bytes that a step can't avoid. `times_baseline` and `percent_of_synthetic`
    are medians over the rounds of the ratio within a round, since the speed of a machine drifts;
    `times_baseline_range` is its least and its largest.
    """
    named = {each.name: each for each in measurements}
    bounds: dict[Products, float] = {}
    for each in measurements:  # each has measured it anew, and some beside a busy machine
        products, per_second = each.first.products, each.first.products_per_second
        bounds[products] = max(per_second, bounds.get(products, 0.0))
    results = []
    for each in measurements:
        result = _result(each, batch_size, bounds[each.first.products])
        if ceiling:
            result["percent_of_synthetic"] = percent_of(each, named[ceiling])
        if baseline:
            result |= compare(each, named[baseline])
        results.append(result)
    return results


def _result(measurement: StepMeasurement, batch_size: int, products_per_second: float) -> Result:
    first, rounds = measurement.first, measurement.rounds
    windows_of_rounds = [turn.windows for turn in rounds]
    windows = [window for windows in windows_of_rounds for window in windows]
    steps_per_second = rate_of(windows).median / batch_size
    waited, seconds = sum(turn.wait_seconds for turn in rounds), sum(window.seconds for window in windows)
    result: Result = {
        "name": measurement.name,
        "loader": first.backend,
        "precision": first.precision,
        **speed_of(windows_of_rounds),
        "milliseconds_per_step": round(1000 / steps_per_second, 2),
        "wait_percent": round(100 * waited / seconds, 2),
        "opening_seconds": round(first.opening_seconds, 2),
        "stage_milliseconds": {stage: round(each, 3) for stage, each in first.stage_milliseconds.items()},
        "tflop_per_step": round(first.operations / 1e12, 4),
        "tflops_per_second": round(first.operations * steps_per_second / 1e12, 3),
        "product_tflops_per_second": round(products_per_second / 1e12, 3),
        "percent_of_products": round(100 * first.operations * steps_per_second / products_per_second, 1),
        "gigabytes_moved_per_step": round(first.bytes_moved / 1e9, 3),
        "peak_memory_mib": round(measurement.peak_memory_bytes / 2**20, 1),
    }
    if first.copy_bytes_per_second is not None:
        bound = first.copy_bytes_per_second / first.bytes_moved  # steps a second
        result["copy_gigabytes_per_second"] = round(first.copy_bytes_per_second / 1e9, 1)
        result["memory_bound_images_per_second"] = round(bound * batch_size, 1)
        result["percent_of_memory_bound"] = round(100 * steps_per_second / bound, 1)
    if rounds[-1].device_memory_bytes is not None:
        result["peak_device_memory_mib"] = round(rounds[-1].device_memory_bytes / 2**20, 1)
    return result
