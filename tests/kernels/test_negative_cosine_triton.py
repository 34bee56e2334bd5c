from typing import Any

import pytest
import torch
from torch import Tensor

from simsiam.kernels.negative_cosine import negative_cosine, negative_cosine_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# Relative rounding error of a gradient computed in float32 and stored in each type; the interpreter truncates to
# bfloat16 where a GPU rounds.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-7 + 1e-6, torch.float16: 2**-11 + 1e-6}
BACKEND = {"cpu": "aot_eager", "cuda": "inductor"}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


def negative_cosine_kernel(*arguments: Any) -> Tensor:
    """Run the kernels, also where `negative_cosine` would choose the reference."""
    return torch.ops.simsiam.negative_cosine(*arguments)


def batch(rows: int, features: int, device: torch.device, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(rows * features)
    return [
        torch.randn(rows, features, generator=generator).to(device, dtype).requires_grad_(number < 2)
        for number in range(4)
    ]


def check(inputs: list[Tensor], eps: float = 1e-12, rounding: float = 1e-6) -> None:
    """Compare loss and gradients with the definition in float64."""
    exact_inputs = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in inputs]
    p1, p2, z1, z2 = exact_inputs
    normalize = torch.nn.functional.normalize
    exact = (
        -((normalize(p1, eps=eps) * normalize(z2, eps=eps)) + (normalize(p2, eps=eps) * normalize(z1, eps=eps)))
        .sum(1)
        .mean()
        / 2
    )
    loss = negative_cosine_kernel(*inputs, eps)
    assert loss.dtype == torch.float32 and loss.shape == ()
    assert loss.item() == pytest.approx(exact.item(), abs=1e-6)
    (3 * loss).backward()
    (3 * exact).backward()
    for tensor, expected in zip(inputs[:2], exact_inputs[:2], strict=True):
        assert tensor.grad is not None and expected.grad is not None
        assert tensor.grad.dtype == tensor.dtype
        # Row by row: a short row has a large gradient.
        error = (tensor.grad.double() - expected.grad).abs().amax(1)
        assert (error <= rounding * expected.grad.abs().amax(1) + torch.finfo(tensor.dtype).tiny).all()


@DTYPES
@pytest.mark.parametrize(("rows", "features"), [(1, 1), (1, 64), (5, 3), (3, 100), (2, 2047), (33, 17)])
def test_loss_and_gradient_are_the_definitions(
    rows: int, features: int, dtype: torch.dtype, device: torch.device
) -> None:
    check(batch(rows, features, device, dtype), rounding=ROUNDING[dtype])


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e37])
def test_float32_rows_of_any_length(scale: float, device: torch.device) -> None:
    inputs = [(tensor.detach() * scale).requires_grad_(tensor.requires_grad) for tensor in batch(3, 40, device)]
    check(inputs)


def test_float16_rows_up_to_the_largest_number(device: torch.device) -> None:
    inputs = batch(3, 40, device)
    half = [(tensor.detach() * 3e4).clamp(-65504, 65504).half() for tensor in inputs]
    check([tensor.requires_grad_(number < 2) for number, tensor in enumerate(half)], rounding=1)
    assert negative_cosine_kernel(*half, 1e-12).isfinite()


def test_rows_of_zeros_and_rows_shorter_than_eps(device: torch.device) -> None:
    inputs = batch(4, 24, device)
    with torch.no_grad():
        inputs[0][0] = 0
        inputs[3][1] = 0
        inputs[1][2] *= 1e-3
    check(inputs, eps=0.5)


def test_the_halves_of_one_batch_and_transposed_matrices_are_read_in_place(device: torch.device) -> None:
    p1, p2, z1, z2 = batch(4, 24, device)
    p = torch.cat([p1, p2], dim=1).detach().requires_grad_()
    halves = [*p.chunk(2, dim=1), z1.t().contiguous().t(), z2]
    loss = negative_cosine_kernel(*halves, 1e-12)
    loss.backward()
    expected = negative_cosine_reference(p1, p2, z1, z2)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    assert p1.grad is not None and p2.grad is not None
    torch.testing.assert_close(p.grad, torch.cat([p1.grad, p2.grad], dim=1))


def test_same_inputs_give_the_same_bits(device: torch.device) -> None:
    results = []
    for _ in range(2):
        p1, p2, z1, z2 = batch(9, 50, device)
        loss = negative_cosine_kernel(p1, p2, z1, z2, 1e-12)
        loss.backward()
        results.append([loss, p1.grad, p2.grad])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_nan_reaches_the_loss(device: torch.device) -> None:
    p1, p2, z1, z2 = batch(4, 24, device)
    with torch.no_grad():
        p2[2, 3] = torch.nan
    assert negative_cosine_kernel(p1, p2, z1, z2, 1e-12).isnan()


def test_the_operator_keeps_pytorchs_contract(device: torch.device) -> None:
    torch.library.opcheck(torch.ops.simsiam.negative_cosine, (*batch(3, 8, device), 1e-12))
    inputs = [tensor.detach() for tensor in batch(3, 8, device)]
    gradient = torch.ones((), device=device)
    torch.library.opcheck(torch.ops.simsiam.negative_cosine_backward, (gradient, *inputs, 1e-12))


def test_one_compiled_graph_forward_and_backward(device: torch.device) -> None:
    inputs, same = batch(3, 8, device), batch(3, 8, device)
    torch.compiler.reset()
    compiled = torch.compile(
        lambda *tensors: 2 * negative_cosine_kernel(*tensors, 1e-12), fullgraph=True, backend=BACKEND[device.type]
    )
    loss = compiled(*inputs)
    loss.backward()
    p1, p2, z1, z2 = same
    expected = 2 * negative_cosine(p1, p2, z1, z2)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for got, reference in zip(inputs[:2], same[:2], strict=True):
        torch.testing.assert_close(got.grad, reference.grad)
