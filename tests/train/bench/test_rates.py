import pytest

from simsiam.train.bench.rates import Rate, compare, mean_rate, percent_of, rate_of, speed_of
from simsiam.train.bench.step_row import StepRound
from simsiam.train.bench.turns import Measurement
from simsiam.train.bench.windows import Window


def test_rate_is_that_of_single_windows() -> None:
    windows = [Window(images, 2.0) for images in (100, 20, 60, 40, 80, 120)]
    assert rate_of(windows) == Rate(median=35.0, low=20.0, high=50.0)
    assert rate_of(windows[:1]) == Rate(50.0, 50.0, 50.0)
    assert mean_rate([Window(10, 1.0), Window(10, 4.0)]) == pytest.approx(4.0)


def test_speed_is_the_median_window_and_the_mean_of_each_round() -> None:
    assert speed_of([[Window(10, 1.0), Window(80, 2.0)], [Window(75, 3.0)]]) == {
        "images_per_second": 25.0,
        "images_per_second_20_80": [16.0, 34.0],
        "views_per_second": 50.0,
        "images_per_second_by_round": [30.0, 25.0],
        "windows": 3,
        "seconds": 6.0,
    }


def row(name: str, *rates: int) -> Measurement[None, StepRound]:
    """A row with a round of one window for each of the rates; each round takes longer than the one before."""
    windows = [Window(rate * seconds, float(seconds)) for seconds, rate in enumerate(rates, 1)]
    return Measurement(name, None, [StepRound([window], 0.0, None) for window in windows], peak_memory_bytes=0)


def test_rows_are_compared_within_each_round() -> None:
    fast, slow = row("fast", 300, 1000, 400), row("slow", 100, 200, 100)
    assert compare(fast, slow) == {"baseline": "slow", "times_baseline": 4.0, "times_baseline_range": [3.0, 5.0]}
    assert percent_of(slow, fast) == 25.0
