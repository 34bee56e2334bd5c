from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from simsiam.kernels.negative_cosine import negative_cosine

# Relative rounding error of a gradient computed in float32 and stored in each type.
GRADIENT_ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8 + 1e-6, torch.float16: 2**-11 + 1e-6}


class Inputs(NamedTuple):
    p1: Tensor
    p2: Tensor
    z1: Tensor
    z2: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        return Inputs(*(change(tensor) for tensor in self))


def random_inputs(rows: int = 6, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    return Inputs(*(torch.randn(rows, 64, generator=generator).to(dtype) for _ in range(4)))


def with_gradient(inputs: Inputs) -> Inputs:
    return inputs.map(lambda tensor: tensor.detach().clone().requires_grad_())


def float64_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    towards_2 = functional.cosine_similarity(p1, z2.detach(), dim=1).mean()
    towards_1 = functional.cosine_similarity(p2, z1.detach(), dim=1).mean()
    return -(towards_2 + towards_1) / 2


@pytest.mark.parametrize("dtype", GRADIENT_ROUNDING)
def test_value_and_gradient_are_those_of_cosine_similarity_in_float64(dtype: torch.dtype) -> None:
    inputs = with_gradient(random_inputs(dtype=dtype))
    exact_inputs = with_gradient(inputs.map(Tensor.double))
    loss, exact = negative_cosine(*inputs), float64_loss(*exact_inputs)
    loss.backward()
    exact.backward()
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    # Products of half-precision inputs taken in half precision would be off by 1e-3.
    assert loss.item() == pytest.approx(exact.item(), abs=1e-6)
    for got, expected in zip(inputs[:2], exact_inputs[:2], strict=True):
        assert got.grad is not None
        assert expected.grad is not None
        assert got.grad.dtype == dtype
        error = (got.grad.double() - expected.grad).abs().max() / expected.grad.abs().max()
        assert error < GRADIENT_ROUNDING[dtype]


def test_no_gradient_reaches_the_targets() -> None:
    p1, p2, z1, z2 = with_gradient(random_inputs())
    negative_cosine(p1, p2, z1, z2).backward()
    assert z1.grad is None
    assert z2.grad is None


def test_each_prediction_is_pulled_to_the_target_of_the_other_view() -> None:
    _, _, z1, z2 = random_inputs()
    assert negative_cosine(z2, z1, z1, z2).item() == pytest.approx(-1, abs=1e-6)
    assert negative_cosine(-z2, -z1, z1, z2).item() == pytest.approx(1, abs=1e-6)
    assert negative_cosine(z2, -z1, z1, z2).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-8, 1e12])
def test_the_length_of_a_row_does_not_matter(scale: float) -> None:
    inputs = random_inputs()
    scaled = inputs.map(lambda tensor: tensor * scale)
    assert negative_cosine(*scaled).item() == pytest.approx(negative_cosine(*inputs).item(), abs=1e-6)


def test_float16_rows_whose_squares_overflow_float16_are_exact() -> None:
    half = random_inputs().map(lambda tensor: (tensor * 1e4).clamp(-6e4, 6e4).half())
    exact = float64_loss(*half.map(Tensor.double))
    assert negative_cosine(*half).item() == pytest.approx(exact.item(), abs=1e-6)


def test_a_row_of_zeros_has_cosine_zero_and_a_finite_gradient() -> None:
    p1, p2, z1, z2 = with_gradient(random_inputs(rows=2))
    with torch.no_grad():
        p1[0] = 0
        z1[1] = 0
    loss = negative_cosine(p1, p2, z1, z2)
    exact = -(functional.cosine_similarity(p1[1], z2[1], dim=0) + functional.cosine_similarity(p2[0], z1[0], dim=0))
    assert loss.item() == pytest.approx(exact.item() / 4, abs=1e-6)
    loss.backward()
    assert p1.grad is not None
    assert p1.grad.isfinite().all()


@pytest.mark.parametrize("norm", [3e-8, 3e-9], ids=["above eps", "below eps"])
def test_short_rows_have_the_value_of_the_authors_cosine_similarity(norm: float) -> None:
    p1, p2, z1, z2 = random_inputs()
    p1 *= norm / p1.norm(dim=1, keepdim=True)
    reference = torch.nn.CosineSimilarity(dim=1)
    exact = -(reference(p1.double(), z2.double()).mean() + reference(p2.double(), z1.double()).mean()) / 2
    assert negative_cosine(p1, p2, z1, z2).item() == pytest.approx(exact.item(), abs=1e-6)


def test_eps_bounds_each_norm_as_in_normalize() -> None:
    p1, p2, z1, z2 = random_inputs()
    eps = 8.0
    towards_2 = (functional.normalize(p1, eps=eps) * functional.normalize(z2, eps=eps)).sum(1).mean()
    towards_1 = (functional.normalize(p2, eps=eps) * functional.normalize(z1, eps=eps)).sum(1).mean()
    assert (p1.norm(dim=1) < eps).any()
    assert negative_cosine(p1, p2, z1, z2, eps).item() == pytest.approx(-(towards_1 + towards_2).item() / 2, abs=1e-6)


def test_autocast_changes_no_bit() -> None:
    inputs = random_inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = negative_cosine(*inputs)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, negative_cosine(*inputs))


def test_shapes_and_types_that_do_not_fit_are_named() -> None:
    p1, p2, z1, z2 = random_inputs()
    with pytest.raises(ValueError, match=r"z1 has shape \(5, 64\)"):
        negative_cosine(p1, p2, z1[:5], z2)
    with pytest.raises(ValueError, match=r"p1 has shape \(64,\)"):
        negative_cosine(p1[0], p2[0], z1[0], z2[0])
    with pytest.raises(ValueError, match="at least one row"):
        negative_cosine(p1[:0], p2[:0], z1[:0], z2[:0])
    with pytest.raises(ValueError, match=r"p2 is torch\.int64"):
        negative_cosine(p1, p2.long(), z1, z2)
