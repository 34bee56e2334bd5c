import itertools

import pytest
import torch
from torch import Tensor, nn

from simsiam.kernels import batch_norm_relu_cpu, openmp_team
from simsiam.kernels.batch_norm_relu import batch_norm_relu, batch_norm_relu_reference

SHAPES = [(6, 5, 3, 2), (12, 7), (6, 300, 1, 2), (12, 64, 9, 7)]


def inputs(shape: tuple[int, ...], with_residual: bool, affine: bool, far: float = 3.0) -> list[Tensor | None]:
    """Activations far from zero, residual, weight and bias, of which none but the first two has a NaN's place."""
    generator = torch.Generator().manual_seed(0)

    def values(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    x = (values(*shape) * 2 + far).contiguous(memory_format=layout)
    residual = values(*shape).contiguous(memory_format=layout) if with_residual else None
    return [x, residual, values(shape[1]) if affine else None, values(shape[1]) if affine else None]


def outcome(function, given: list[Tensor | None], views: int, relu: bool, dtype: torch.dtype) -> list[Tensor]:
    """Return output, gradients and running statistics."""
    x, residual, weight, bias = (
        None if each is None else each.detach().clone().to(dtype).requires_grad_() for each in given
    )
    assert x is not None
    running = torch.zeros(x.shape[1], dtype=dtype), torch.ones(x.shape[1], dtype=dtype)
    output = function(x, weight, bias, *running, residual, views=views, relu=relu)
    (output * torch.linspace(-1, 1, output.numel(), dtype=dtype).view_as(output)).sum().backward()
    return [output, *running, *(each.grad for each in (x, residual, weight, bias) if each is not None)]  # type: ignore[misc]


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
    for place, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        torch.testing.assert_close(
            ours.double(), theirs, rtol=1e-4, atol=2e-5, msg=lambda text, at=place: f"{at}: {text}"
        )


def test_a_mean_far_from_zero_costs_no_precision() -> None:
    given = inputs((64, 3, 8, 8), False, True, far=1000.0)
    got, expected = (
        outcome(function, given, 2, True, dtype)[0].double()
        for function, dtype in ((batch_norm_relu, torch.float32), (batch_norm_relu_reference, torch.float64))
    )
    assert (got - expected).abs().max() < 2e-3  # a float32 of 1,000 ± 2 has that much in itself


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
        assert all(torch.equal(one, another) for one, another in zip(results[0], other, strict=True))


@pytest.mark.parametrize("with_residual", [False, True])
def test_a_value_that_is_no_number_stays_to_be_found(with_residual: bool) -> None:
    given = inputs((4, 3, 2, 2), with_residual, True)
    assert given[0] is not None
    given[0][0, 1, 0, 0] = torch.nan
    output, *_, x_gradient = outcome(batch_norm_relu, [*given[:2], None, None], 2, True, torch.float32)[:4]
    assert output[:2, 1].isnan().all() and output[2:].isfinite().all() and output[:, 0].isfinite().all()
    assert x_gradient[:2, 1].isnan().any()


def test_other_layouts_are_copied_first_and_other_types_left_to_the_reference() -> None:
    given = inputs((6, 5, 3, 2), True, True)
    expected = outcome(batch_norm_relu, given, 2, True, torch.float32)
    assert given[0] is not None and given[1] is not None
    given[:2] = given[0].contiguous(), given[1].contiguous()
    for ours, theirs in zip(outcome(batch_norm_relu, given, 2, True, torch.float32), expected, strict=True):
        assert torch.equal(ours, theirs)
    double = outcome(batch_norm_relu, given, 2, True, torch.float64)
    assert torch.equal(double[0], outcome(batch_norm_relu_reference, given, 2, True, torch.float64)[0])


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
