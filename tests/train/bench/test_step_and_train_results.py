import pytest
import torch

from simsiam.train.bench.step_and_train_results import StepMeasurement, results_of_steps
from simsiam.train.bench.step_row import FirstSteps, StepRound
from simsiam.train.bench.step_stages import Products
from simsiam.train.bench.turns import Measurement
from simsiam.train.bench.windows import Window


def measured(
    name: str, *rates: int, copy: float | None = None, memory: int | None = None, products: float = 8e10
) -> StepMeasurement:
    """A row of steps of 10 images; a round of two windows of a second for each of the rates, a tenth of it waited."""
    rounds = [StepRound([Window(rate, 1.0)] * 2, 0.2, memory) for rate in rates]
    stages = {"forward": 1.23456, "backward": 2.5}
    first = FirstSteps(3.456, "ffcv", "fp32", stages, 2 * 10**9, 10**8, Products(torch.float32), products, copy)
    return Measurement(name, first, rounds, peak_memory_bytes=3 * 2**20)


def test_a_result_holds_rates_stages_and_shares_of_the_bounds() -> None:
    (result,) = results_of_steps([measured("ours", 100, 200, 300, copy=5e9, memory=2**30)], 10, baseline=None)
    assert result == {
        "name": "ours",
        "loader": "ffcv",
        "precision": "fp32",
        "images_per_second": 200.0,
        "images_per_second_20_80": [100.0, 300.0],
        "views_per_second": 400.0,
        "images_per_second_by_round": [100.0, 200.0, 300.0],
        "windows": 6,
        "seconds": 6.0,
        "milliseconds_per_step": 50.0,
        "wait_percent": 10.0,
        "opening_seconds": 3.46,
        "stage_milliseconds": {"forward": 1.235, "backward": 2.5},
        "tflop_per_step": 0.002,
        "tflops_per_second": 0.04,
        "product_tflops_per_second": 0.08,
        "percent_of_products": 50.0,
        "gigabytes_moved_per_step": 0.1,
        "peak_memory_mib": 3.0,
        "copy_gigabytes_per_second": 5.0,
        "memory_bound_images_per_second": 500.0,
        "percent_of_memory_bound": 40.0,
        "peak_device_memory_mib": 1024.0,
    }


def test_rows_of_one_precision_have_one_bound() -> None:
    rows = results_of_steps([measured("ours", 200), measured("baseline", 200, products=1.6e11)], 10, baseline=None)
    assert [row["percent_of_products"] for row in rows] == [25.0, 25.0]


def test_time_of_a_step_and_images_a_second_are_of_the_same_window() -> None:
    (result,) = results_of_steps([measured("ours", 100, 100, 900)], 10, baseline=None)
    assert (result["images_per_second"], result["milliseconds_per_step"]) == (100.0, 100.0)


def test_no_bound_is_claimed_where_no_copy_was_measured() -> None:
    (result,) = results_of_steps([measured("ours", 100)], 10, baseline=None)
    assert not {"percent_of_memory_bound", "copy_gigabytes_per_second", "peak_device_memory_mib"} & set(result)


def test_rows_are_compared_with_baseline_and_ceiling_within_each_round() -> None:
    rows = [measured("ours", 300, 1000, 400), measured("baseline", 100, 200, 100), measured("synthetic", *[2000] * 3)]
    ours, baseline, synthetic = results_of_steps(rows, 10, baseline="baseline", ceiling="synthetic")
    assert (ours["times_baseline"], ours["times_baseline_range"], ours["baseline"]) == (4.0, [3.0, 5.0], "baseline")
    assert ours["percent_of_synthetic"] == pytest.approx(20.0) and synthetic["percent_of_synthetic"] == 100.0
    assert baseline["times_baseline"] == 1.0
