"""Results of `simsiam bench step` and `bench train`: rows measured in turns, and one JSON object a row.

Rates, the time spent waiting for the loader, the stages of a step, and its shares of what the machine could do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from simsiam.pipeline.worker_count import available_cores
from simsiam.train.bench.pinned_process import first_cores
from simsiam.train.bench.rates import Result, compare, percent_of, rate_of, speed_of
from simsiam.train.bench.rows import is_baseline
from simsiam.train.bench.step_contenders import StepSettings
from simsiam.train.bench.step_row import FirstSteps, StepRound, measure_steps
from simsiam.train.bench.step_stages import Products
from simsiam.train.bench.turns import Measurement, StartRow, take_turns
from simsiam.train.bench.windows import check_positive
from simsiam.train.cuda_graph import check_cuda_graph
from simsiam.train.precision import choose_arithmetic, open_device

StepMeasurement = Measurement[FirstSteps, StepRound]


def seconds_of_round(seconds: float, rounds: int) -> float:
    """Return the length of a round. Raises UsageError for numbers that aren't positive."""
    check_positive(seconds=seconds, rounds=rounds)
    return seconds / rounds


def measure_rows(
    rows: Mapping[str, StepSettings],
    rounds: int,
    *,
    trace: Path | None,
    say: Callable[[str], None],
    start_row: StartRow,
    ceiling: str | None = None,
) -> list[Result]:
    """Measure rows in turns, the first of them traced, and return their results with the settings that they share.

    They are compared with the row `baseline`, and with the row `ceiling`, where there are such rows.
    """
    for row in rows.values():
        device = open_device(row.config.device)
        choose_arithmetic(device, row.config.precision)
        check_cuda_graph(row.config, device, world_size=1)
    first, cores = next(iter(rows)), first_cores(available_cores())
    rows = {**rows, first: replace(rows[first], trace=trace)}
    config = rows[first].config
    measurements = take_turns(measure_steps, rows, cores, rounds, first="First steps", say=say, start_row=start_row)
    results = results_of_steps(measurements, config.batch_size, "baseline" if "baseline" in rows else None, ceiling)
    settings = {
        "arch": config.model.arch,
        "stem": config.model.stem,
        "size": config.data.size,
        "batch_size": config.batch_size,
        "cores": len(cores),
        "device": open_device(config.device).type,
    }
    return [
        result | settings | {"compile": "off" if is_baseline(row.name) else row.config.compile}
        for result, row in zip(results, rows.values(), strict=True)
    ]


def results_of_steps(
    measurements: Sequence[StepMeasurement], batch_size: int, baseline: str | None, ceiling: str | None = None
) -> list[Result]:
    """Return a result for each row.

    `images_per_second` is the median window's, and `images_per_second_20_80` what 20 % and 80 % of them stay below.
    `wait_percent` is the share of all windows' time in which the loader was waited for. `stage_milliseconds` come from
    separate steps, `milliseconds_per_step` from the median window, and so does all that follows. `tflop_per_step` is
    what the row multiplies: ours skips the padding on a CPU if maps are small. `percent_of_products` is the share of
    `product_tflops_per_second`, the most that large matrix products in the row's precision reached in any row of that
    precision, at which the step computes; `percent_of_memory_bound` the share of the rate at which a GPU could move
    the bytes that a step has to move. `times_baseline` and `percent_of_synthetic` are medians over the rounds of the
    ratio within a round, since the speed of a machine drifts; `times_baseline_range` is its least and its largest.
    """
    named = {each.name: each for each in measurements}
    bounds: dict[Products, float] = {}
    for each in measurements:  # each has measured it anew, and some next to a busy machine
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
    result: Result = {
        "name": measurement.name,
        "loader": first.backend,
        "precision": first.precision,
        **speed_of(windows_of_rounds),
        "milliseconds_per_step": round(1000 / steps_per_second, 2),
        "wait_percent": round(_wait_percent(rounds), 2),
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


def _wait_percent(rounds: Sequence[StepRound]) -> float:
    """Return the share of the windows' time in which the steps waited for a batch of their loader, in percent."""
    waited = sum(turn.wait_seconds for turn in rounds)
    return 100 * waited / sum(window.seconds for turn in rounds for window in turn.windows)
