from typing import Any

import pytest
import torch
from torch import Tensor

from simsiam.kernels.batch_norm_relu import batch_norm_relu_reference, merge_statistics
from simsiam.kernels.batch_norm_relu_contract import Norm

pytestmark = pytest.mark.usefixtures("poisoned_memory")

# Relative rounding error of a value stored in each type; the interpreter truncates to bfloat16 where a GPU rounds.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-11}
BACKEND = {"cpu": "aot_eager", "cuda": "inductor"}


def batch_norm_relu_kernel(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernels, also where `batch_norm_relu` would choose the reference."""
    return torch.ops.simsiam.batch_norm_relu(*arguments)


def batch(
    shape: tuple[int, ...], device: torch.device, dtype: torch.dtype = torch.float32, residual: bool = False
) -> dict[str, Tensor | None]:
    """Return activations whose views differ in mean and spread, weights of both signs, and the output's gradient."""
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def activations(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device, dtype)
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor

    halves = shape[0] // 2
    x = torch.cat([normal(halves, *shape[1:]) * 0.5 - 2, normal(shape[0] - halves, *shape[1:]) * 3 + 1])
    tensors = {
        "x": activations(x),
        "weight": normal(shape[1]).to(device),
        "bias": normal(shape[1]).to(device),
        "residual": activations(normal(*shape)) if residual else None,
        "gradient": activations(normal(*shape)),
    }
    return {
        name: tensor.requires_grad_(name != "gradient") if tensor is not None else None
        for name, tensor in tensors.items()
    }


def exact(tensors: dict[str, Tensor | None], views: int, relu: bool) -> dict[str, Tensor | None]:
    """Return output, statistics and gradients by the definition, in float64 on the CPU."""
    x, weight, bias, residual, gradient = (
        None if tensor is None else tensor.detach().cpu().double().requires_grad_() for tensor in tensors.values()
    )
    assert x is not None
    output = batch_norm_relu_reference(x, weight, bias, None, None, residual, views=views, relu=relu)
    output.backward(gradient)
    blocks = x.detach().unflatten(0, (views, -1)).movedim(2, 1).flatten(2)
    return {
        "output": output.detach(),
        "mean": blocks.mean(2),
        "variance": blocks.var(2, correction=0),
        **{
            name: None if tensor is None else tensor.grad
            for name, tensor in (("x", x), ("weight", weight), ("bias", bias), ("residual", residual))
        },
    }


def computed(tensors: dict[str, Tensor | None], views: int, relu: bool) -> dict[str, Tensor | None]:
    """Return the same by the kernels."""
    x, weight, bias, residual, gradient = tensors.values()
    output, mean, variance = batch_norm_relu_kernel(x, weight, bias, residual, views, 1e-5, relu)
    output.backward(gradient)
    assert x is not None and x.grad is not None
    layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
    assert output.dtype == x.grad.dtype == x.dtype
    assert output.is_contiguous(memory_format=layout)
    # A leaf's gradient takes the leaf's own layout.
    if x.is_contiguous(memory_format=layout):
        assert x.grad.is_contiguous(memory_format=layout)
    return {
        "output": output.detach(),
        "mean": mean,
        "variance": variance,
        **{name: None if tensor is None else tensor.grad for name, tensor in list(tensors.items())[:4]},
    }


def check(tensors: dict[str, Tensor | None], views: int = 2, relu: bool = True, rounding: float = 2e-6) -> None:
    expected = exact(tensors, views, relu)
    for name, got in computed(tensors, views, relu).items():
        value = expected[name]
        assert (got is None) == (value is None), name
        if got is not None and value is not None:
            precision = 2e-6 if name in ("mean", "variance") else rounding
            error = (got.cpu().double() - value).abs().max()
            assert error <= 4 * precision * value.abs().max(), name


SHAPES = [(4, 5, 3, 2), (2, 64, 5, 5), (6, 70, 3, 3), (8, 3), (12, 130), (2, 1, 40, 30)]


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_statistics_and_all_gradients_are_the_definitions(
    shape: tuple[int, ...], residual: bool, device: torch.device
) -> None:
    check(batch(shape, device, residual=residual))


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_data_have_float32_statistics(dtype: torch.dtype, residual: bool, device: torch.device) -> None:
    check(batch((4, 9, 5, 4), device, dtype, residual), rounding=ROUNDING[dtype])


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_without_relu_and_for_any_number_of_views(views: int, residual: bool, device: torch.device) -> None:
    check(batch((6, 7, 3, 3), device, residual=residual), views, relu=False)


def test_without_weight_and_bias(device: torch.device) -> None:
    check(batch((6, 7), device) | {"weight": None, "bias": None})


def test_many_rows_are_reduced_in_chunks(device: torch.device) -> None:
    # Several chunks of several tiles, the last of them not full.
    from simsiam.kernels.view_matrix_triton import ReductionPlan

    shape = (2, 64, 26, 25)
    plan = ReductionPlan(rows=650, channels=64, views=2)
    assert plan.count > 2 and 650 % plan.rows % plan.blocks["ROWS"]
    check(batch(shape, device, residual=True), rounding=1e-5)


def test_a_mean_far_from_zero_costs_no_precision(device: torch.device) -> None:
    tensors = batch((4, 6, 8, 8), device)
    assert tensors["x"] is not None
    with torch.no_grad():
        tensors["x"] += 10_000
    expected = exact(tensors, 2, True)
    _, mean, variance = batch_norm_relu_kernel(*list(tensors.values())[:4], 2, 1e-5, True)
    torch.testing.assert_close(mean.cpu().double(), expected["mean"], rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.cpu().double(), expected["variance"], rtol=1e-4, atol=0)


def test_a_constant_channel_becomes_its_bias(device: torch.device) -> None:
    tensors = batch((4, 3, 4, 4), device)
    x, weight, bias = tensors["x"], tensors["weight"], tensors["bias"]
    assert x is not None and bias is not None
    with torch.no_grad():
        x.fill_(7.3)
    output, _, variance = batch_norm_relu_kernel(x, weight, bias, None, 2, 1e-5, False)
    assert (variance == 0).all()
    torch.testing.assert_close(output, bias.view(1, 3, 1, 1).expand_as(output), rtol=0, atol=0)


def test_nan_reaches_the_output(device: torch.device) -> None:
    tensors = batch((4, 3, 4, 4), device)
    assert tensors["x"] is not None
    with torch.no_grad():
        tensors["x"][0, 1, 0, 0] = torch.nan
    output, _, _ = batch_norm_relu_kernel(*list(tensors.values())[:4], 2, 1e-5, True)
    assert output[:2, 1].isnan().all() and output[2:].isfinite().all() and output[:, 0].isfinite().all()


def test_same_inputs_give_the_same_bits(device: torch.device) -> None:
    first, second = (computed(batch((2, 10, 40, 30), device, residual=True), 2, True) for _ in range(2))
    for name, got in first.items():
        assert got is not None and torch.equal(got, second[name]), name  # type: ignore[arg-type]


def test_other_layouts_are_copied_first(device: torch.device) -> None:
    tensors = batch((4, 5, 3, 2), device, residual=True)
    planar = {name: None if tensor is None else tensor.detach().contiguous() for name, tensor in tensors.items()}
    for name in ("x", "weight", "bias", "residual"):
        planar[name].requires_grad_()  # type: ignore[union-attr]
    expected = computed(tensors, 2, True)
    for name, got in computed(planar, 2, True).items():
        torch.testing.assert_close(got, expected[name], rtol=0, atol=0)


def test_statistics_and_sums_reduced_over_ranks_are_those_of_the_whole_batch(device: torch.device) -> None:
    from simsiam.kernels.batch_norm_relu_backward_triton import gradient_sums, input_gradient
    from simsiam.kernels.batch_norm_relu_triton import local_statistics, normalize

    whole = {name: tensor.detach() for name, tensor in batch((10, 7, 3, 3), device).items() if tensor is not None}
    # Two ranks, with 2 and 3 images of either view.
    ranks = [
        {name: torch.cat([whole[name][part], whole[name][5:][part]]) for name in ("x", "gradient")}
        for part in (slice(0, 2), slice(2, 5))
    ]
    parts = [local_statistics(rank["x"], 2) for rank in ranks]
    counts = torch.tensor([2 * 9.0, 3 * 9.0], device=device)
    means, variances = (torch.stack(part) for part in zip(*parts, strict=True))
    mean, variance = merge_statistics(means, variances, counts)
    norm = Norm(mean, variance, whole["weight"], whole["bias"], 1e-5)
    outputs = [normalize(rank["x"], None, norm, True) for rank in ranks]
    sums = sum(gradient_sums(rank["gradient"], rank["x"], None, norm, True)[1] for rank in ranks)
    assert isinstance(sums, Tensor)
    gradients = [input_gradient(rank["gradient"], rank["x"], norm, sums, 45, True) for rank in ranks]

    expected = exact(batch((10, 7, 3, 3), device), 2, True)
    for name, got in (("output", outputs), ("x", gradients)):
        views = [torch.cat([got[0][:2], got[1][:3]]), torch.cat([got[0][2:], got[1][3:]])]
        torch.testing.assert_close(torch.cat(views).cpu().double(), expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("residual", [False, True], ids=["plain", "residual"])
def test_the_operators_keep_pytorchs_contract(residual: bool, device: torch.device) -> None:
    tensors = batch((4, 5, 3, 2), device, residual=residual)
    x, weight, bias, addend, gradient = tensors.values()
    torch.library.opcheck(torch.ops.simsiam.batch_norm_relu, (x, weight, bias, addend, 2, 1e-5, True))
    with torch.no_grad():
        output, mean, variance = batch_norm_relu_kernel(x, weight, bias, addend, 2, 1e-5, True)
    saved = (output if residual else None, mean, variance)
    torch.library.opcheck(
        torch.ops.simsiam.batch_norm_relu_backward,
        tuple(
            None if t is None else t.detach() if isinstance(t, Tensor) else t
            for t in (gradient, x, *saved, weight, bias, 1e-5, True)
        ),
    )


def test_one_compiled_graph_forward_and_backward(device: torch.device) -> None:
    torch.compiler.reset()

    def loss(x, weight, bias, residual, gradient) -> Tensor:
        return (batch_norm_relu_kernel(x, weight, bias, residual, 2, 1e-5, True)[0] * gradient).sum()

    compiled, eager = (batch((4, 5, 3, 2), device, residual=True) for _ in range(2))
    torch.compile(loss, fullgraph=True, backend=BACKEND[device.type])(*compiled.values()).backward()
    loss(*eager.values()).backward()
    for name in ("x", "weight", "bias", "residual"):
        torch.testing.assert_close(compiled[name].grad, eager[name].grad)  # type: ignore[union-attr]
