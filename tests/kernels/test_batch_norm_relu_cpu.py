import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from simsiam.kernels import batch_norm_relu_cpu, openmp_team
from simsiam.kernels.batch_norm_relu import batch_norm_relu, batch_norm_relu_reference

SHAPES = [(6, 5, 3, 2), (12, 7), (6, 300, 1, 2), (12, 64, 9, 7)]


def inputs(shape: tuple[int, ...], with_residual: bool, affine: bool, far: float = 3.0) -> list[Tensor | None]:
    """Return activations far from zero, residual, weight and bias."""
    generator = torch.Generator().manual_seed(0)

    def values(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    x = (values(*shape) * 2 + far).contiguous(memory_format=layout)
    residual = values(*shape).contiguous(memory_format=layout) if with_residual else None
    return [x, residual, values(shape[1]) if affine else None, values(shape[1]) if affine else None]


def slopes(given: list[Tensor | None], views: int) -> Tensor:
    """Return a gradient of the output, with 0 where rounding may decide whether ReLU passes it."""
    x, residual, weight, bias = (None if each is None else each.double() for each in given)
    assert x is not None
    before = batch_norm_relu_reference(x, weight, bias, None, None, residual, views=views, relu=False)
    gradient = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    return torch.where(before.abs() < 1e-4, 0.0, gradient)


def outcome(
    function: Callable[..., Tensor], given: list[Tensor | None], views: int, relu: bool, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return output, running statistics and gradients."""
    tensors = {
        name: each.detach().clone().to(dtype).requires_grad_()
        for name, each in zip(("x", "residual", "weight", "bias"), given, strict=True)
        if each is not None
    }
    x, residual, weight, bias = (tensors.get(name) for name in ("x", "residual", "weight", "bias"))
    assert x is not None
    running = torch.zeros(x.shape[1], dtype=dtype), torch.ones(x.shape[1], dtype=dtype)
    output = function(x, weight, bias, *running, residual, views=views, relu=relu)
    gradients = torch.autograd.grad((output * slopes(given, views).to(dtype)).sum(), list(tensors.values()))
    return {
        "output": output.detach(),
        "running mean": running[0],
        "running variance": running[1],
        **{f"gradient of {name}": gradient for name, gradient in zip(tensors, gradients, strict=True)},
    }


@pytest.fixture
def chunks_of_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_norm_relu_cpu, "_CHUNK_BYTES", 2000)


@pytest.mark.usefixtures("chunks_of_few_rows")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("with_residual", "affine", "relu"), list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("views", [1, 2, 3])
def test_it_is_batch_norm_sum_and_relu(shape, with_residual, affine, relu, views) -> None:
    given = inputs(shape, with_residual, affine)
    got = outcome(batch_norm_relu, given, views, relu, torch.float32)
    expected = outcome(batch_norm_relu_reference, given, views, relu, torch.float64)
    # Each of the gradients of weight and bias is a sum of so many products, of which each rounds.
    products = given[0].numel() // shape[1] if given[0] is not None else 0
    rounding = 2 * products * torch.finfo(torch.float32).eps
    for name, exact in expected.items():
        atol = 2e-5 + (rounding if name in ("gradient of weight", "gradient of bias") else 0)
        torch.testing.assert_close(
            got[name].double(), exact, rtol=1e-4, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_a_mean_far_from_zero_costs_no_precision() -> None:
    given = inputs((64, 3, 8, 8), False, True, far=1000.0)
    got, expected = (
        outcome(function, given, 2, True, dtype)["output"].double()
        for function, dtype in ((batch_norm_relu, torch.float32), (batch_norm_relu_reference, torch.float64))
    )
    # The mean of 2,048 numbers near 1,000, added up in float32, may be off by that much.
    assert (got - expected).abs().max() < 2e-3


@pytest.mark.usefixtures("chunks_of_few_rows")
def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    given, before = inputs((12, 64, 9, 7), True, True), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(outcome(batch_norm_relu, given, 2, True, torch.float32))
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(openmp_team, "_openmp", None)  # as where PyTorch has another OpenMP
    results.append(outcome(batch_norm_relu, given, 2, True, torch.float32))
    for other in results[1:]:
        assert all(torch.equal(value, other[name]) for name, value in results[0].items())


@pytest.mark.parametrize("with_residual", [False, True])
def test_nan_reaches_the_output_and_the_gradient(with_residual: bool) -> None:
    given = inputs((4, 3, 2, 2), with_residual, True)
    assert given[0] is not None
    given[0][0, 1, 0, 0] = torch.nan
    got = outcome(batch_norm_relu, [*given[:2], None, None], 2, True, torch.float32)
    output = got["output"]
    assert output[:2, 1].isnan().all() and output[2:].isfinite().all() and output[:, 0].isfinite().all()
    assert got["gradient of x"][:2, 1].isnan().any()


def test_other_layouts_are_copied_first_and_other_types_left_to_the_reference() -> None:
    given = inputs((6, 5, 3, 2), True, True)
    expected = outcome(batch_norm_relu, given, 2, True, torch.float32)
    assert given[0] is not None and given[1] is not None
    given[:2] = given[0].contiguous(), given[1].contiguous()
    copied = outcome(batch_norm_relu, given, 2, True, torch.float32)
    assert all(torch.equal(value, expected[name]) for name, value in copied.items())
    double, reference = (
        outcome(each, given, 2, True, torch.float64) for each in (batch_norm_relu, batch_norm_relu_reference)
    )
    assert torch.equal(double["output"], reference["output"])


def test_the_operators_are_as_pytorch_wants_them() -> None:
    x, residual, weight, bias = inputs((4, 3, 2, 2), True, True)
    arguments = x, weight, bias, residual, 2, 1e-5, True
    torch.library.opcheck(torch.ops.simsiam.batch_norm_relu_cpu.default, arguments)


def test_running_statistics_are_those_of_two_passes() -> None:
    norm = nn.BatchNorm2d(5)
    x = inputs((8, 5, 3, 2), False, True)[0]
    assert x is not None
    for view in x.chunk(2):
        norm(view)
    mean, variance = torch.zeros(5), torch.ones(5)
    batch_norm_relu(x, None, None, mean, variance, views=2)
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(variance, norm.running_var)
