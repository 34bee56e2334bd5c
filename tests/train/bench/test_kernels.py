from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from simsiam.train.bench.kernel_cases import OPERATIONS
from simsiam.train.bench.kernels import Case, Way, measure, measure_copy

CPU = torch.device("cpu")


def doubling(*ways: Way) -> Case:
    values = torch.arange(1.0, 5)
    return Case("double", "4 float32", lambda: [2 * values, values], ways, bytes_moved=32, tolerance=1e-3)


def gives(change: Callable[[Tensor], Tensor], name: str = "simsiam", checked: bool = True) -> Way:
    values = torch.arange(1.0, 5)
    return Way(name, lambda: [change(values), values], checked)


def test_a_correct_result_is_timed_and_compared_with_the_copy() -> None:
    (row,) = measure(doubling(gives(lambda x: x + x)), CPU, copy_bandwidth=1e6, seconds=0.01)
    low, high = row["milliseconds_20_80"]
    assert 0 < low <= row["milliseconds"] <= high
    assert row["error"] == 0 and 1 <= row["runs"] <= 50
    assert row["gigabytes_per_second"] == pytest.approx(32 / row["milliseconds"] / 1e6)
    assert row["percent_of_copy"] == pytest.approx(100 * row["gigabytes_per_second"] * 1e9 / 1e6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x: 2.01 * x, "relative error is 0.005; 0.001 is allowed"),
        (lambda x: x * torch.nan, "relative error is nan"),
        (lambda x: x[:2], "RunError: an output has shape (2,) instead of (4,)"),
    ],
    ids=["wrong", "nan", "shape"],
)
def test_a_wrong_result_gets_no_time(wrong: Callable[[Tensor], Tensor], said: str) -> None:
    failed, sound = measure(doubling(gives(wrong), gives(lambda x: 2 * x, "reference")), CPU, 1e9, 0.01)
    assert said in failed["failed"]
    assert not any("milli" in name or "percent" in name for name in failed)
    assert "milliseconds" in sound and sound["way"] == "reference"


def test_a_way_that_breaks_does_not_stop_the_others() -> None:
    def broken(_: Tensor) -> Tensor:
        raise RuntimeError("no compiler\nand much more")

    rows = list(measure(doubling(gives(broken, "compiled"), gives(lambda x: 2 * x)), CPU, 1e9, 0.01))
    assert rows[0]["failed"] == "RuntimeError: no compiler"
    assert "milliseconds" in rows[1]


def test_a_baseline_that_draws_for_itself_is_timed_unchecked() -> None:
    (row,) = measure(doubling(gives(torch.rand_like, "kornia", checked=False)), CPU, 1e9, 0.01)
    assert row["error"] is None and row["milliseconds"] > 0


def test_averages_forgive_what_a_largest_error_does_not() -> None:
    exact = torch.ones(1000)
    single = exact.clone()
    single[3] = 0
    case = Case("relu", "1000 float32", lambda: [exact], [Way("simsiam", lambda: [single])], 1, 1e-2)
    (by_largest,), (by_average,) = (measure(case._replace(averaged=value), CPU, 1e9, 0.01) for value in (False, True))
    assert "failed" in by_largest and by_average["error"] == pytest.approx(1e-3)


def test_the_copy_moves_what_it_reads_and_writes() -> None:
    assert measure_copy(CPU, size=2**20) > 1e6


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_is_measured_with_its_reference_and_both_are_correct(operation: str) -> None:
    case = next(OPERATIONS[operation](CPU))
    assert case.operation == operation and case.bytes_moved > 0
    ways = [way for way in case.ways if way.name in ("simsiam", "reference")]
    rows = list(measure(case._replace(ways=ways), CPU, 1e9, seconds=0.0))
    assert [row.get("failed") for row in rows] == [None, None]
    assert "compiled" in [way.name for way in case.ways]
