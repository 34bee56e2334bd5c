import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from simsiam.train.bench.step import bench_steps
from tests.train.bench.conftest import STEP_CONFIG, SameProcessRows


def test_rows_of_steps_take_turns_and_are_compared_with_the_baseline(
    same_process: SameProcessRows, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.json"
    names = ("ours", "ours-bf16", "baseline")  # baseline-amp takes a minute on a CPU without bfloat16
    results = bench_steps(
        STEP_CONFIG, names, seconds=0.02, rounds=2, trace=trace, product_side=16, start_row=same_process
    )
    assert same_process.asked == [*names * 3, *(f"{name} closed" for name in reversed(names))]
    assert [result["name"] for result in results] == list(names)
    assert [result["precision"] for result in results] == ["fp32", "bf16", "fp32"]
    for result in results:
        ours = result["name"].startswith("ours")
        stages = ["augment", "forward", "backward", "optimizer"]
        assert list(result["stage_milliseconds"]) == stages[0 if ours else 1 :]
        assert min(result["stage_milliseconds"].values()) > 0
        assert result["images_per_second"] > 0 and len(result["images_per_second_by_round"]) == 2
        assert (result["arch"], result["size"], result["batch_size"], result["compile"]) == ("resnet18", 16, 8, "off")
        assert (result["loader"], result["device"], result["baseline"]) == ("synthetic", "cpu", "baseline")
    # The same work, but that ours in float32 does not multiply what lies outside of a small map.
    ours, *others = [result["tflop_per_step"] for result in results]
    assert 0 < ours < others[0] and len(set(others)) == 1
    assert results[2]["times_baseline"] == 1
    assert "convolution_backward" in trace.read_text()


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        ({}, {"seconds": 0.0}, "seconds is 0.0; give a positive number"),
        ({}, {"seconds": math.nan}, "seconds is nan; give a positive number"),
        ({}, {"rounds": 0}, "rounds is 0; give a positive number"),
        ({"precision": "tf32"}, {}, "tf32"),
        ({"device": "cuda"}, {}, "cuda"),
        ({"cuda_graph": True}, {}, "CUDA graph"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    change: dict, settings: dict, said: str, same_process: SameProcessRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=said):
        bench_steps(
            replace(STEP_CONFIG, **change),
            ("ours",),
            **{"seconds": 1.0, "rounds": 1} | settings,
            start_row=same_process,
        )
    assert same_process.asked == []


def test_no_rows_and_unknown_rows_are_refused(same_process: SameProcessRows) -> None:
    names: Any = ("ours", "theirs")
    with pytest.raises(ValueError, match=r"No row was named; choose from ours, .*baseline-amp"):
        bench_steps(STEP_CONFIG, (), seconds=1.0, rounds=1, start_row=same_process)
    with pytest.raises(ValueError, match=r"no row theirs; choose from ours, .*baseline-amp"):
        bench_steps(STEP_CONFIG, names, seconds=1.0, rounds=1, start_row=same_process)
    assert same_process.asked == []
