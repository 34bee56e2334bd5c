from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.errors import UsageError
from simsiam.train.config import PretrainConfig
from simsiam.train.cuda_graph import GraphedStep, check_cuda_graph
from simsiam.train.loss import StepOutput

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("config", "device", "world_size", "said"),
    [
        (PretrainConfig(cuda_graph=True), CPU, 1, "CUDA graph needs a GPU"),
        (PretrainConfig(cuda_graph=True, compile="max-autotune"), GPU, 1, "max-autotune, which captures graphs itself"),
        (PretrainConfig(cuda_graph=True), GPU, 2, "CUDA graph is for one process.* torchrun"),
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
    """Notes what it sees of its batch and of the learning rate; during a capture it computes nothing, as on a GPU."""

    def __init__(self) -> None:
        self.graph: FakeGraph | None = None
        self.optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        self.captures, self.seen, self.output = 0, [], StepOutput(torch.zeros(()), torch.zeros(()))

    def __call__(self, crops: Crops) -> StepOutput:
        rate = self.optimizer.param_groups[0]["lr"]
        if self.graph is None:
            self.compute(crops, rate)
        else:
            self.captures += 1
            self.graph.captured = lambda: self.compute(crops, rate)
        return self.output

    def compute(self, crops: Crops, rate: Any) -> None:
        numbers = [int(tensor.flatten()[0]) for tensor in (crops.pixels, *crops.draws, crops.index)]
        self.seen.append((numbers, round(float(rate), 6)))


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


def test_each_batch_is_seen_once_with_the_rate_of_its_epoch_in_one_graph(step: Step) -> None:
    graphed, rates = GraphedStep(step, step.optimizer), [0.1] * 6 + [0.05] * 3
    for number, rate in enumerate(rates):
        step.optimizer.param_groups[0]["lr"] = rate
        values = torch.full((2,), number)
        graphed(Crops(values, Draws(*[values] * len(Draws._fields)), values, values))
        assert step.captures == (number >= 3)
        assert step.optimizer.param_groups[0]["lr"] is rate
    assert step.seen == [([number] * (2 + len(Draws._fields)), rate) for number, rate in enumerate(rates)]


def test_fused_optimizer_takes_a_rate_that_lies_in_a_tensor() -> None:
    """As it does of the graph; the same bits as with a number."""
    weights = []
    for rate in (0.1, torch.tensor(0.1)):
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 7))
        optimizer = torch.optim.SGD([weight], lr=0.3, momentum=0.9, weight_decay=1e-4, fused=True)
        optimizer.param_groups[0]["lr"] = rate
        for _ in range(3):
            weight.grad = weight.detach().sin()
            optimizer.step()
        weights.append(weight.detach())
    assert torch.equal(*weights)
