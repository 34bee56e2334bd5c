from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from simsiam.pipeline.draw import Draws
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.loader import Crops
from simsiam.train.config import PretrainConfig
from simsiam.train.graphed_step import GraphedStep, check_cuda_graph
from simsiam.train.objective import StepOutput

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("config", "device", "world_size", "said"),
    [
        (PretrainConfig(cuda_graph=True), CPU, 1, "--cuda-graph needs a GPU; leave it out"),
        (PretrainConfig(cuda_graph=True, compile="max-autotune"), GPU, 1, "max-autotune, which captures graphs itself"),
        (PretrainConfig(cuda_graph=True), GPU, 2, "--cuda-graph is for one process; leave it out under torchrun"),
    ],
)
def test_graph_that_cannot_be_had_is_refused(
    config: PretrainConfig, device: torch.device, world_size: int, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        check_cuda_graph(config, device, world_size)


def test_graph_that_can_be_had_or_is_not_asked_for_is_fine() -> None:
    check_cuda_graph(PretrainConfig(cuda_graph=True, compile="default", recompute=False), GPU, 1)
    check_cuda_graph(PretrainConfig(compile="max-autotune"), CPU, 2)


class FakeGraph:
    """A graph that, when replayed, calls what was called while it was captured."""

    captured: Callable[[], Any] | None = None

    def replay(self) -> None:
        assert self.captured
        self.captured()


class Step:
    """Counts what it sees; during a capture it computes nothing, as on a GPU."""

    def __init__(self) -> None:
        self.graph: FakeGraph | None = None
        self.captures, self.seen, self.output = 0, [], StepOutput(torch.zeros(()), torch.zeros(()))

    def __call__(self, crops: Crops) -> StepOutput:
        if self.graph is None:
            self.compute(crops)
        else:
            self.captures += 1
            self.graph.captured = lambda: self.compute(crops)
        return self.output

    def compute(self, crops: Crops) -> None:
        self.seen.append([int(tensor.flatten()[0]) for tensor in (crops.pixels, *crops.draws, crops.index)])


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> Step:
    step = Step()

    @contextmanager
    def capture(graph: FakeGraph, **_: Any) -> Iterator[None]:
        step.graph = graph
        yield
        step.graph = None

    class Stream:
        def wait_stream(self, other: "Stream") -> None:
            pass

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    return step


def test_each_batch_is_seen_once_and_a_new_rate_is_captured(step: Step) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    graphed = GraphedStep(step, optimizer)
    captures = []
    for number in range(9):
        if number == 6:
            optimizer.param_groups[0]["lr"] = 0.05
        values = torch.full((2,), number)
        graphed(Crops(values, Draws(*[values] * len(Draws._fields)), values, values))
        captures.append(step.captures)
    assert step.seen == [[number] * (2 + len(Draws._fields)) for number in range(9)]
    assert captures == [0, 0, 0, 1, 1, 1, 2, 2, 2]
