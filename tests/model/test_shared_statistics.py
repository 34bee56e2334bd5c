"""Batch norm whose statistics are shared by several processes, which are threads here."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

from simsiam.model.batch_norm import PerViewBatchNorm1d, PerViewBatchNorm2d, share_statistics
from simsiam.model.fused_batch_norm import FusedBatchNorm2d

RANKS, IMAGES = 3, 12
MARGIN = 10
Result = TypeVar("Result")


class Processes:
    """Runs a function in a thread for each rank, and stands in for the collectives of a process group."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._size, self._barrier, self._here = size, threading.Barrier(size, timeout=60), threading.local()
        self._parts: list[Tensor] = [torch.empty(0)] * size
        monkeypatch.setattr("torch.distributed.all_gather", self._all_gather)
        monkeypatch.setattr("torch.distributed.all_reduce", self._all_reduce)

    def run(self, function: Callable[[int], Result]) -> list[Result]:
        def work(rank: int) -> Result:
            self._here.rank = rank
            try:
                return function(rank)
            except BaseException:
                self._barrier.abort()
                raise

        with ThreadPoolExecutor(self._size) as pool:
            return list(pool.map(work, range(self._size)))

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        self._parts[self._here.rank] = tensor.clone()
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts

    def _all_gather(self, parts: list[Tensor], tensor: Tensor) -> None:
        for part, value in zip(parts, self._exchange(tensor), strict=True):
            part.copy_(value)

    def _all_reduce(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self._exchange(tensor)).sum(0))


def trained(layer: nn.Module, x: Tensor, pull: Tensor) -> dict[str, Tensor]:
    """Return all that two steps make of a layer and a batch, computed in the layer's dtype."""
    dtype = layer.get_buffer("running_mean").dtype
    x = x.to(dtype).requires_grad_()
    residual = (x.roll(1, dims=1),) if isinstance(layer, FusedBatchNorm2d) else ()
    outputs = [layer(x, *residual) for _ in range(2)]
    for output in outputs:
        output.backward(pull.to(dtype))
    gradients = {f"gradient of {name}": weight.grad for name, weight in layer.named_parameters()}
    results = {"output": outputs[-1], "gradient of the input": x.grad, **gradients, **layer.state_dict()}
    return {name: result.detach() for name, result in results.items() if result is not None}


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize(
    ("kind", "shape", "options"),
    [
        pytest.param(PerViewBatchNorm1d, (5,), {"affine": False}, id="1d without affine"),
        pytest.param(PerViewBatchNorm2d, (5, 4, 3), {"momentum": 0.3}, id="2d"),
        pytest.param(FusedBatchNorm2d, (5, 4, 3), {}, id="fused"),
    ],
)
def test_processes_compute_what_one_does_on_the_whole_batch(
    kind: type, shape: tuple[int, ...], options: dict[str, object], views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding is measured by a control: one process in float32, against one in float64."""
    whole = kind(5, views, **options)
    for parameter in whole.parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    x, pull = torch.randn(2, views * IMAGES, *shape)
    x[:IMAGES] += 3  # the views differ
    shares = [share.flatten() for share in torch.arange(views * IMAGES).view(views, IMAGES).chunk(RANKS, dim=1)]
    layers = [copy.deepcopy(whole) for _ in range(RANKS)]
    for layer in layers:
        share_statistics(layer, RANKS)

    def train(rank: int) -> dict[str, Tensor]:
        return trained(layers[rank], x[shares[rank]], pull[shares[rank]])

    results = Processes(RANKS, monkeypatch).run(train)
    exact, control = trained(copy.deepcopy(whole).double(), x, pull), trained(whole, x, pull)
    for name, value in exact.items():
        parts = torch.stack([result[name] for result in results])
        if name in ("output", "gradient of the input"):
            ours = torch.empty_like(value)
            for share, part in zip(shares, parts, strict=True):
                ours[share] = part.double()
        elif name.startswith("gradient"):
            ours = parts.double().sum(0)  # what a parameter's gradient becomes when all processes' are added
        else:
            ours = parts[0]
            assert (parts == ours).all(), f"{name} differs between the processes"
        off, rounding = (distance(other, value) for other in (ours, control[name]))
        assert off <= MARGIN * max(rounding, distance(value.float(), value)), f"{name} is off by {off}"


def distance(one: Tensor, other: Tensor) -> float:
    return (one.double() - other.double()).norm().item()
