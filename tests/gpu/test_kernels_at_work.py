"""Promises of the kernels beyond their results: they are chosen, wait for nothing, and take few launches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from simsiam.kernels.augment import augment_views
from simsiam.kernels.augment_contract import PhotometricDraws
from simsiam.kernels.batch_norm_relu import batch_norm_relu, batch_norm_relu_reference
from simsiam.kernels.negative_cosine import negative_cosine
from tests.kernels.augment_inputs import crops, drawn, moved

if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def launches(run: Callable[[], object]) -> list[str]:
    """Return the names of the kernels that `run` launches, after one run that compiles them."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    return [event.name for event in profiler.events() or () if event.device_type.name == "CUDA"]


def test_augmentation_takes_four_launches_and_waits_for_nothing(device: torch.device) -> None:
    pixels, draws = crops(8, size=64).to(device), moved(drawn(8), device)

    def run() -> Tensor:
        return augment_views(pixels, draws, dtype=torch.bfloat16)

    run()
    with waiting_is_an_error():
        run()
    assert len(launches(run)) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_augmentation_of_full_size_is_within_a_255th_of_the_reference(dtype: torch.dtype, device: torch.device) -> None:
    pixels, draws = crops(16, size=224).to(device), moved(drawn(16), device)
    augment = partial(augment_views, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    got = augment(pixels, draws, dtype=dtype)
    exact = augment(pixels, draws, implementation="reference")
    assert (got.float() - exact).abs().max() < 1 / 255 + torch.finfo(dtype).eps / 2


def test_loss_takes_three_launches_and_waits_for_nothing(device: torch.device) -> None:
    p1, p2, z1, z2 = (torch.randn(64, 2048, device=device).requires_grad_(number < 2) for number in range(4))
    gradient = torch.ones((), device=device)

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(negative_cosine(p1, p2, z1, z2), (p1, p2), gradient)

    run()
    with waiting_is_an_error():
        run()
    # Forward and its sum over rows, and backward.
    assert len(launches(run)) == 3


def test_batch_norm_waits_for_nothing_and_is_the_references_at_full_size(device: torch.device) -> None:
    def batch() -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(0)
        x, residual = (
            torch.randn(16, 256, 56, 56, device=device)
            .contiguous(memory_format=torch.channels_last)
            .bfloat16()
            .requires_grad_()
            for _ in range(2)
        )
        return x, residual, torch.randn(256, device=device).requires_grad_()

    x, residual, weight = batch()
    bias, running_mean, running_var = (torch.zeros(256, device=device) for _ in range(3))
    batch_norm_relu(x, weight, bias, running_mean, running_var, residual, views=2).sum().backward()
    with waiting_is_an_error():
        output = batch_norm_relu(x, weight, bias, running_mean, running_var, residual, views=2)
        x.grad = residual.grad = weight.grad = None
        output.backward(residual.detach())
    x2, residual2, weight2 = batch()
    expected = batch_norm_relu_reference(
        x2.float(), weight2, bias, running_mean, running_var, residual2.float(), views=2
    )
    expected.backward(residual.detach().float())
    for got, exact in ((output, expected), (x.grad, x2.grad), (residual.grad, residual2.grad)):
        assert got is not None and exact is not None
        assert (got.float() - exact.float()).abs().max() <= 2**-6 * exact.float().abs().max()
    torch.testing.assert_close(weight.grad, weight2.grad, rtol=1e-2, atol=1.0)


def test_kernels_stay_in_one_compiled_graph(device: torch.device) -> None:
    pixels, draws = crops(2, size=16).to(device), moved(drawn(2), device)
    weight, bias = torch.ones(3, device=device), torch.zeros(3, device=device)

    def step(pixels: Tensor, draws: PhotometricDraws[Tensor]) -> Tensor:
        views = augment_views(pixels, draws)
        flat = batch_norm_relu(views, weight, bias, None, None, views=2).flatten(1)
        first, second = flat.chunk(2)
        return negative_cosine(first, second, first, second)

    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(step, fullgraph=True)(pixels, draws), step(pixels, draws))
