import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from simsiam.model.resnet import resnet
from simsiam.train.bench.step_stages import Products, count_work, measure_products, time_stages, trace_steps
from simsiam.train.step import Mark

CPU = torch.device("cpu")


class FakeClock:
    """Says of one step after the other that it took the given milliseconds."""

    def __init__(self, milliseconds_of_steps: Sequence[dict[str, float]]) -> None:
        self._steps = iter(milliseconds_of_steps)
        self.heard: list[str] = []

    def start(self) -> None:
        self.heard.append("start")

    def mark(self, stage: str) -> None:
        self.heard.append(stage)

    def milliseconds(self) -> dict[str, float]:
        return next(self._steps)


def test_each_stage_takes_its_median_over_the_steps() -> None:
    def step(mark: Mark) -> None:
        mark("slow")
        mark("quick")

    clock = FakeClock([{"slow": 20.0, "quick": 3.0}, {"slow": 50.0, "quick": 1.0}, {"slow": 30.0, "quick": 2.0}])
    stages = time_stages(step, clock, steps=3)
    assert list(stages.items()) == [("slow", 30.0), ("quick", 2.0)]
    assert clock.heard == ["start", "slow", "quick"] * 3


def test_work_of_a_convolution_is_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Conv2d(4, 2, 1, bias=False))
    images = torch.randn(5, 3, 8, 8)
    forward = 2 * 5 * 64 * (4 * 27 + 2 * 4)
    operations, bytes_moved = count_work(lambda: model(images), model)
    assert operations == forward
    inputs, outputs = 4 * 5 * 64 * (3 + 4), 4 * 5 * 64 * (4 + 2)
    assert bytes_moved == 3 * (inputs + outputs) + 8 * outputs
    # The first convolution's input needs no gradient.
    operations, _ = count_work(lambda: model(images).sum().backward(), model)
    assert operations == 3 * forward - 2 * 5 * 64 * 4 * 27
    assert not any(module._forward_hooks for module in model)


def test_work_under_autocast_counts_bytes_of_the_smaller_type() -> None:
    model = nn.Conv2d(3, 4, 1, bias=False)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.randn(2, 3, 4, 4))

    assert count_work(step, model)[1] == 2 * 2 * 16 * (3 * (3 + 4) + 8 * 4)


def test_bytes_and_operations_of_a_resnet50_are_the_published_ones() -> None:
    """4.089 GMAC a view of 224 px (torchvision), less the classifier's 2; 308 MB with fused batch norm in bfloat16.

    The bytes: 22.2 MB out of the convolutions and 21.3 MB into them, three times, and eight times what comes out.
    """
    with torch.device("meta"):
        model = resnet("resnet50").to(torch.bfloat16)
        images = torch.empty(2, 3, 224, 224, dtype=torch.bfloat16)
    operations, bytes_moved = count_work(lambda: model(images), model)
    assert operations / 2 == pytest.approx(2 * (4.089e9 - 2.05e6), rel=1e-3)
    assert bytes_moved / 2 == pytest.approx(308e6, rel=3e-3)


def test_compiled_model_is_counted_uncompiled() -> None:
    ran = []

    def compile_nothing(graph: Callable, inputs: object) -> Callable:
        return lambda *values: ran.append(graph) or graph(*values)

    model = nn.Conv2d(3, 4, 1, bias=False)
    compiled = torch.compile(model, backend=compile_nothing)
    compiled(torch.randn(2, 3, 4, 4))
    assert len(ran) == 1
    assert count_work(lambda: compiled(torch.randn(2, 3, 4, 4)), model)[0] == 2 * 2 * 16 * 12
    compiled(torch.randn(2, 3, 4, 4))
    assert len(ran) == 2


def test_a_product_of_n_rows_is_two_n_cubed_operations_in_the_best_time() -> None:
    clock = FakeClock([{"product": milliseconds} for milliseconds in (0.75, 0.5, 1.0, 2.0, 0.75)])
    assert measure_products(CPU, Products(torch.float32), side=64, clock=clock) == pytest.approx(2 * 64**3 / 0.0005)


def test_trace_is_json_with_the_operations(tmp_path: Path) -> None:
    def step(mark: Mark) -> None:
        torch.mm(torch.randn(4, 4), torch.randn(4, 4))
        mark("product")

    trace_steps(step, tmp_path / "new" / "trace.json")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["trace.json"]
    names = [event.get("name") for event in json.loads((tmp_path / "new" / "trace.json").read_text())["traceEvents"]]
    assert names.count("aten::mm") == names.count("end of product") == 3


def test_trace_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Can't write"):
        trace_steps(lambda mark: None, tmp_path / "file" / "trace.json")
