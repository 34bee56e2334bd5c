import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from simsiam.train.bench import kernel_cases as benchmark_cases
from simsiam.train.bench.kernels import Case, Way
from simsiam.train.cli import run
from simsiam.train.commands.bench_kernels import Operation


@pytest.fixture
def loss_factor(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Put a quick case in place of the loss's, whose result is off by a factor."""
    values, factor = torch.ones(4), [1.0]

    def cases(device: torch.device) -> Iterator[Case]:
        ways = [Way("simsiam", lambda: [factor[0] * values]), Way("reference", lambda: [values])]
        yield Case("negative_cosine", "4 float32", lambda: [values], ways, bytes_moved=16, tolerance=1e-3)

    monkeypatch.setitem(benchmark_cases.OPERATIONS, "negative_cosine", cases)
    return factor


def bench(out: Path, *options: str) -> int:
    return run(["bench", "kernels", "--ops", "negative_cosine", "--seconds", "0.001", "--json", str(out), *options])


@pytest.mark.usefixtures("loss_factor")
def test_each_way_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(tmp_path / "kernels.json", "--device", "cpu") == 0
    written = json.loads((tmp_path / "kernels.json").read_text())
    assert [row["way"] for row in written["results"]] == ["simsiam", "reference"]
    assert all(row["milliseconds"] > 0 and row["copy_bytes_per_second"] > 0 for row in written["results"])
    assert "packages" in written["environment"]
    printed = capsys.readouterr().out
    assert "negative_cosine, 4 float32" in printed and "% of a copy" in printed


def test_a_wrong_kernel_has_no_time_and_ends_with_exit_code_1(
    loss_factor: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loss_factor[0] = 1.5
    assert bench(tmp_path / "kernels.json", "--device", "cpu") == 1
    (ours,) = [line for line in capsys.readouterr().out.splitlines() if "simsiam" in line]
    assert "failed: its relative error is 0.5" in ours and " ms " not in ours


@pytest.mark.usefixtures("loss_factor")
def test_a_skipped_way_is_not_measured(tmp_path: Path) -> None:
    assert bench(tmp_path / "kernels.json", "--device", "cpu", "--skip", "reference") == 0
    assert [row["way"] for row in json.loads((tmp_path / "kernels.json").read_text())["results"]] == ["simsiam"]


def test_the_commands_operations_are_those_of_the_table() -> None:
    assert Operation.__args__ == tuple(benchmark_cases.OPERATIONS)  # type: ignore[attr-defined]


def test_an_unknown_operation_is_wrong_usage() -> None:
    assert run(["bench", "kernels", "--ops", "fourier"]) == 2
