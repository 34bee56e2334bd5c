"""Symmetric negative cosine similarity, SimSiam's loss: predictions and projections of two views in, a scalar out."""

import torch
from torch import Tensor


def negative_cosine(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float = 1e-8) -> Tensor:
    """Return SimSiam's loss ½·D(p1, stopgrad(z2)) + ½·D(p2, stopgrad(z1)).

    D is the negative cosine of each row's pair, averaged over rows: arXiv 2011.10566 §3, eq. (1) for D and
    eq. (4) for the loss. It lies in [−1, 1]; −1 means that every prediction points at its target.

    On a CUDA device it is the custom operator `simsiam::negative_cosine`: one launch forward (and a sum over
    rows), one backward. That saves some twenty launches and rounds better, but hardly changes the throughput:
    the four matrices are a few megabytes in a step that moves many gigabytes. Elsewhere it is the reference.

    Args:
        p1: Predictions for the first views, (rows, features), float32, bfloat16 or float16.
        p2: Predictions for the second views, of the same shape.
        z1: Projections of the first views, of the same shape; no gradient flows to them.
        z2: Projections of the second views, likewise.
        eps: Lower bound of each norm. The paper has none; this is where and how `torch.nn.CosineSimilarity` has it,
            which the authors' code uses with its default, 1e-8. A row of zeros has cosine 0.

    Returns:
        A float32 scalar. Norms and products are float32 whatever the inputs are, autocast or not, and neither
        overflow nor underflow, however long or short a row is.

    Raises:
        ValueError: The four are not matrices of one shape with at least one entry, or not floating point.
    """
    for name, rows in (("p1", p1), ("p2", p2), ("z1", z1), ("z2", z2)):
        if rows.ndim != 2 or rows.shape != p1.shape or rows.numel() == 0:
            raise ValueError(
                f"{name} has shape {tuple(rows.shape)}; p1, p2, z1 and z2 must be matrices of one shape "
                f"with at least one row and one column (p1 has {tuple(p1.shape)})."
            )
        if not rows.is_floating_point():
            raise ValueError(f"{name} is {rows.dtype}; give float32, bfloat16 or float16.")
    if p1.device.type == "cuda":
        return _negative_cosine(p1, p2, z1, z2, eps)
    return negative_cosine_reference(p1, p2, z1, z2, eps)


def negative_cosine_reference(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float = 1e-8) -> Tensor:
    """Return `negative_cosine` by its definition, in plain PyTorch; the inputs are taken as checked."""
    return 0.5 * (_mean_negative_cosine(p1, z2.detach(), eps) + _mean_negative_cosine(p2, z1.detach(), eps))


def _mean_negative_cosine(p: Tensor, z: Tensor, eps: float) -> Tensor:
    return -(_unit_rows(p, eps) * _unit_rows(z, eps)).sum(dim=1).mean()


def _unit_rows(rows: Tensor, eps: float) -> Tensor:
    rows = rows.float()
    # In units of the largest entry: squares of float32 entries overflow from 1e19 on and underflow below 1e-19.
    largest = rows.detach().abs().amax(dim=1, keepdim=True)
    unit = torch.where(largest == 0, 1, largest)
    rows = rows / unit
    return rows / torch.maximum(torch.linalg.vector_norm(rows, dim=1, keepdim=True), eps / unit)


@torch.library.custom_op("simsiam::negative_cosine", mutates_args=())
def _negative_cosine(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float) -> Tensor:
    # Imported here, since triton is slow to import and not available everywhere.
    from simsiam.kernels.negative_cosine_triton import negative_cosine_triton

    return negative_cosine_triton(p1, p2, z1, z2, eps)


@_negative_cosine.register_fake
def _(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float) -> Tensor:
    return p1.new_empty((), dtype=torch.float32)


@torch.library.custom_op("simsiam::negative_cosine_backward", mutates_args=())
def _negative_cosine_backward(
    gradient: Tensor, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    from simsiam.kernels.negative_cosine_triton import negative_cosine_backward_triton

    return negative_cosine_backward_triton(gradient, p1, p2, z1, z2, eps)


@_negative_cosine_backward.register_fake
def _(gradient: Tensor, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return p1.new_empty(p1.shape), p2.new_empty(p2.shape)


def _save_inputs(ctx, inputs: tuple[Tensor, Tensor, Tensor, Tensor, float], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.eps = inputs[4]


def _backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_negative_cosine_backward(gradient, *ctx.saved_tensors, ctx.eps), None, None, None


_negative_cosine.register_autograd(_backward, setup_context=_save_inputs)
