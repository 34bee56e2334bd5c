import pytest

from simsiam.train.bench.loader_results import results_of
from simsiam.train.bench.loader_row import FirstEpoch, Round
from simsiam.train.bench.turns import Measurement
from simsiam.train.bench.windows import Window


def measured(name: str, *rates: float, cpu_seconds: float = 1.0) -> Measurement:
    """A row with one round of two windows of a second for each of the rates."""
    rounds = [Round([Window(int(rate), 1.0), Window(int(rate), 1.0)], cpu_seconds) for rate in rates]
    return Measurement(name, FirstEpoch(2.5, Window(30, 0.5)), rounds, peak_memory_bytes=3 * 2**20)


ROWS = [
    measured("slow", 100, 200, 100),
    measured("fast", 300, 1000, 400, cpu_seconds=6.0),
    measured("top", *[4000] * 3),
]


def test_a_result_holds_rates_costs_and_the_first_epoch_apart() -> None:
    result = results_of(ROWS, cores=4, baseline=None, needed_images_per_second=3000.0)[1]
    assert result == {
        "name": "fast",
        "images_per_second": 400.0,
        "images_per_second_20_80": [300.0, 1000.0],
        "views_per_second": 800.0,
        "images_per_second_by_round": [300.0, 1000.0, 400.0],
        "windows": 6,
        "seconds": 6.0,
        "opening_seconds": 2.5,
        "first_epoch_images_per_second": 60.0,
        "needed_images_per_second": 3000.0,
        "wait_percent": pytest.approx(86.7),
        "cpu_milliseconds_per_image": pytest.approx(1000 * 18 / 3400, abs=0.001),
        "cpu_percent_of_cores": 75.0,
        "peak_memory_mib": 3.0,
        "percent_of_synthetic": 10.0,
    }


def test_ratios_are_taken_within_a_round_and_their_median_is_told() -> None:
    slow, fast, top = results_of(ROWS, cores=4, baseline="slow", needed_images_per_second=3000.0)
    assert (fast["baseline"], fast["times_baseline"], fast["times_baseline_range"]) == ("slow", 4.0, [3.0, 5.0])
    assert (slow["times_baseline"], slow["times_baseline_range"]) == (1.0, [1.0, 1.0])
    assert top["percent_of_synthetic"] == 100.0


def test_a_row_faster_than_what_is_needed_makes_nobody_wait() -> None:
    *_, top = results_of(ROWS, cores=4, baseline=None, needed_images_per_second=3000.0)
    assert top["wait_percent"] == 0.0
