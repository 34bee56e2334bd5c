"""Fused batch norm: statistics per view, optional residual sum and ReLU in one operation."""

import importlib
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from simsiam.kernels.batch_norm_relu_contract import Norm, empty_activations


def batch_norm_relu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    residual: Tensor | None = None,
    *,
    views: int = 1,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
    world_size: int = 1,
) -> Tensor:
    """Return relu(batch_norm(x) + residual), each of `views` equal blocks of the batch normalised on its own.

    In training mode this is what `views` passes through `torch.nn.functional.batch_norm` give, one block after the
    other, running statistics included (SimSiam's encoder sees one view at a time: arXiv 2011.10566, Algorithm 1).

    On a CUDA device, training is the custom operator `simsiam::batch_norm_relu`: forward it reads `x` twice and
    writes once; backward, where it recomputes which values ReLU cut, it reads `x` and the gradient twice and writes
    once. A residual is read once more, its gradient written once. float32 on a CPU is `simsiam::batch_norm_relu_cpu`,
    which does the same. Elsewhere, and in evaluation, it is the reference.

    Args:
        x: (views·n, channels) or (views·n, channels, height, width), view-major; float32, bfloat16 or float16. Best
            in `torch.channels_last`: another layout is copied first.
        weight: Scale, float32 (channels,), or None for 1.
        bias: Shift, float32 (channels,), or None for 0.
        running_mean: Float32 (channels,), updated in place in training and read in evaluation.
        running_var: As `running_mean`; both may be None in training.
        residual: Added before ReLU; of the shape and dtype of `x`.
        views: Blocks of the batch with statistics of their own in training.
        training: Normalise by the batch's statistics; otherwise by the running ones.
        momentum: Weight of a block's statistics in the running ones.
        eps: Added to the variance.
        relu: Replace values below 0 by 0.
        world_size: Processes, with the same number of images each, that train together and normalise by the statistics
            of all of their batches: one collective forward, one backward, through the default process group. Only where
            there is a kernel; see `has_kernel`.

    Returns:
        Of the shape and dtype of `x`. Statistics and arithmetic are float32 (in evaluation, PyTorch's).

    Raises:
        ValueError: The shapes do not fit, there is only one value per channel and view, or statistics are to be shared
            where there is no kernel.
    """
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"residual is {residual.dtype} {tuple(residual.shape)}; give {x.dtype} {tuple(x.shape)}, like x."
        )
    if not training:
        normalized = functional.batch_norm(x, running_mean, running_var, weight, bias, False, 0.0, eps)
        return _activate(normalized, residual, relu)
    if x.ndim not in (2, 4) or x.shape[0] % views:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; give ({views}·n, channels) or ({views}·n, channels, height, width)."
        )
    count = x.numel() // (views * x.shape[1])
    if count < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; a variance needs two values per channel in each view.")
    if not has_kernel(x):
        if world_size > 1:
            raise ValueError(f"x is {x.dtype} on {x.device.type}, where there is no kernel that shares statistics.")
        return batch_norm_relu_reference(
            x, weight, bias, running_mean, running_var, residual, views=views, momentum=momentum, eps=eps, relu=relu
        )
    operator = _by_triton if x.device.type == "cuda" else _by_numba
    normalized, mean, variance = operator(x, weight, bias, residual, views, eps, relu, world_size)
    if running_mean is not None and running_var is not None:
        update_running_statistics(running_mean, running_var, mean, variance, count * world_size, momentum)
    return normalized


def has_kernel(x: Tensor) -> bool:
    """Whether there is a fused operation for training on activations like `x`: any on a GPU, float32 on a CPU."""
    return x.device.type == "cuda" or (x.device.type == "cpu" and x.dtype == torch.float32)


def batch_norm_relu_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    residual: Tensor | None = None,
    *,
    views: int = 1,
    momentum: float = 0.1,
    eps: float = 1e-5,
    relu: bool = True,
) -> Tensor:
    """Return `batch_norm_relu` in training mode by its definition, in plain PyTorch; arguments taken as checked."""
    # One after the other: the running statistics of a view start from those of the view before it.
    normalized = [
        functional.batch_norm(view, running_mean, running_var, weight, bias, True, momentum, eps)
        for view in x.chunk(views)
    ]
    return _activate(torch.cat(normalized), residual, relu)


def _activate(normalized: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    if residual is not None:
        normalized = normalized + residual
    return functional.relu(normalized) if relu else normalized


@torch.no_grad()
def update_running_statistics(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, variance: Tensor, count: int, momentum: float
) -> None:
    """Update running statistics (channels,) with those of each view (views, channels), one view after the other.

    `variance` is the biased one of `count` values; the running one takes the unbiased (Bessel's correction), as in
    PyTorch.
    """
    for view_mean, view_variance in zip(mean.unbind(), variance.unbind(), strict=True):
        running_mean.lerp_(view_mean, momentum)
        running_var.lerp_(view_variance * (count / (count - 1)), momentum)


def merge_statistics(means: Tensor, variances: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (views, channels) of a batch from those of its parts.

    A synchronised batch norm does this between `local_statistics` and `normalize`, with one part per rank. No square is
    subtracted from another (Chan, Golub, LeVeque 1983, eq. 2.1).

    Args:
        means: Each part's mean, float32 (parts, views, channels).
        variances: Each part's biased variance, likewise.
        counts: Number of values in each part, float32 (parts,).
    """
    share = (counts / counts.sum()).view(-1, 1, 1)
    mean = means[0] + (share * (means - means[0])).sum(0)
    return mean, (share * (variances + (means - mean).square())).sum(0)


def gather_statistics(mean: Tensor, variance: Tensor, world_size: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (views, channels) over the batches of all processes, which are of one size.

    Through the default process group. Gathers all parts rather than their sum: the same bits in every process.
    """
    local = torch.stack([mean, variance])
    parts = [torch.empty_like(local) for _ in range(world_size)]
    dist.all_gather(parts, local)
    means, variances = torch.stack(parts, dim=1)
    return merge_statistics(means, variances, means.new_ones(world_size))


def _define_operator(
    name: str, forward_module: str, backward_module: str
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return the operator `simsiam::NAME` made of functions of two modules, which are imported on its first use.

    triton and numba are slow to import, and triton is not available everywhere.
    """

    @torch.library.custom_op(f"simsiam::{name}", mutates_args=())
    def forward(
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        views: int,
        eps: float,
        relu: bool,
        world_size: int = 1,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernels = importlib.import_module(forward_module)
        mean, variance = kernels.local_statistics(x, views)
        if world_size > 1:
            mean, variance = gather_statistics(mean, variance, world_size)
        return kernels.normalize(x, residual, Norm(mean, variance, weight, bias, eps), relu), mean, variance

    @forward.register_fake
    def _(x, weight, bias, residual, views, eps, relu, world_size=1) -> tuple[Tensor, Tensor, Tensor]:
        return empty_activations(x), *(x.new_empty((views, x.shape[1]), dtype=torch.float32) for _ in range(2))

    @torch.library.custom_op(f"simsiam::{name}_backward", mutates_args=())
    def backward(
        gradient: Tensor,
        x: Tensor,
        output: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        relu: bool,
        world_size: int = 1,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kernels = importlib.import_module(backward_module)
        norm = Norm(mean, variance, weight, bias, eps)
        cut, sums, totals = kernels.gradient_sums(gradient, x, output, norm, relu)
        if world_size > 1:  # the parameters' gradients stay local: DDP averages them later
            dist.all_reduce(sums)
        count = x.numel() // mean.numel() * world_size
        # With a residual, the gradient of ReLU's input has been computed already.
        passed, cut_again = (gradient, relu) if cut is None else (cut, False)
        x_gradient = kernels.input_gradient(passed, x, norm, sums, count, cut_again)
        return x_gradient, totals, gradient.new_empty(0) if cut is None else cut

    @backward.register_fake
    def _(gradient, x, output, mean, variance, weight, bias, eps, relu, world_size=1) -> tuple[Tensor, Tensor, Tensor]:
        totals = mean.new_empty((2, mean.shape[1]))
        return empty_activations(x), totals, gradient.new_empty(0) if output is None else empty_activations(x)

    def differentiate(ctx, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, variance, output = ctx.saved_tensors
        norm = Norm(mean, variance, weight, bias, ctx.eps)
        x_gradient, totals, cut = backward(gradient, x, output, *norm, ctx.relu, ctx.world_size)
        residual_gradient = cut if ctx.cut_by_output else gradient if ctx.has_residual else None
        return (
            x_gradient,
            None if weight is None else totals[1],
            None if bias is None else totals[0],
            residual_gradient,
            None,
            None,
            None,
            None,
        )

    forward.register_autograd(differentiate, setup_context=_save)
    return forward


def _save(ctx, inputs, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, residual, _, ctx.eps, ctx.relu, ctx.world_size = inputs
    normalized, mean, variance = output
    # Without a residual, x tells where ReLU cut; with one, the output does.
    ctx.cut_by_output = ctx.relu and residual is not None
    ctx.save_for_backward(x, weight, bias, mean, variance, normalized if ctx.cut_by_output else None)
    ctx.has_residual = residual is not None
    ctx.mark_non_differentiable(mean, variance)


_by_triton = _define_operator(
    "batch_norm_relu", "simsiam.kernels.batch_norm_relu_triton", "simsiam.kernels.batch_norm_relu_backward_triton"
)
_by_numba = _define_operator(
    "batch_norm_relu_cpu", "simsiam.kernels.batch_norm_relu_cpu", "simsiam.kernels.batch_norm_relu_cpu"
)
