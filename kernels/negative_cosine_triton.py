"""`negative_cosine` on a GPU: one Triton kernel for the loss, one for its gradient, a program for each row."""

# Triton gives its language types of its own, in which a number is no constexpr and a kernel no launcher.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor


def negative_cosine_triton(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float) -> Tensor:
    """Return the loss, a float32 scalar; the arguments are taken as checked.

    The kernel writes each row's share, and a sum in fixed order adds them: the same bits every time.
    """
    matrices = [_with_dense_rows(matrix) for matrix in (p1, p2, z1, z2)]
    rows, features = p1.shape
    shares = torch.empty(rows, dtype=torch.float32, device=p1.device)
    _forward[(rows,)](
        shares,
        *matrices,
        *(matrix.stride(0) for matrix in matrices),
        rows,
        features,
        eps,
        **_meta(features),
    )
    return shares.sum()


def negative_cosine_backward_triton(
    gradient: Tensor, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the gradients of p1 and p2, in their shapes and dtypes; `gradient` is that of the loss, a scalar."""
    matrices = [_with_dense_rows(matrix) for matrix in (p1, p2, z1, z2)]
    rows, features = p1.shape
    p1_gradient, p2_gradient = (torch.empty(p.shape, dtype=p.dtype, device=p.device) for p in (p1, p2))
    _backward[(rows,)](
        p1_gradient,
        p2_gradient,
        gradient,
        *matrices,
        *(matrix.stride(0) for matrix in matrices),
        rows,
        features,
        eps,
        **_meta(features),
    )
    return p1_gradient, p2_gradient


def _with_dense_rows(matrix: Tensor) -> Tensor:
    # The halves of one batch are not copied: only the stride within a row must be 1.
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _meta(features: int) -> dict[str, int]:
    """Return block and warps: a program holds whole rows in registers, about 16 numbers per thread and row."""
    block = triton.next_power_of_2(features)
    return {"BLOCK": block, "num_warps": min(max(block // 512, 1), 16)}


@triton.jit
def _load_row(pointer, stride, features, eps, BLOCK: tl.constexpr):
    """Return this program's row and its norm, at least eps, both in units of its largest entry, and that entry.

    Squares of such entries neither overflow nor underflow.
    """
    column = tl.arange(0, BLOCK)
    row = tl.load(pointer + tl.program_id(0).to(tl.int64) * stride + column, mask=column < features, other=0.0)
    row = row.to(tl.float32)
    unit = tl.max(tl.abs(row), axis=0)
    unit = tl.where(unit == 0, 1.0, unit)
    row = row / unit
    return row, tl.maximum(tl.sqrt(tl.sum(row * row, axis=0)), eps / unit), unit


@triton.jit
def _cosine(p, z, p_stride, z_stride, features, eps, BLOCK: tl.constexpr):
    p_row, p_norm, _ = _load_row(p, p_stride, features, eps, BLOCK)
    z_row, z_norm, _ = _load_row(z, z_stride, features, eps, BLOCK)
    return tl.sum((p_row / p_norm) * (z_row / z_norm), axis=0)


@triton.jit
def _forward(
    shares, p1, p2, z1, z2, p1_stride, p2_stride, z1_stride, z2_stride, rows, features, eps, BLOCK: tl.constexpr
):
    towards_2 = _cosine(p1, z2, p1_stride, z2_stride, features, eps, BLOCK)
    towards_1 = _cosine(p2, z1, p2_stride, z1_stride, features, eps, BLOCK)
    tl.store(shares + tl.program_id(0), -0.5 * (towards_2 + towards_1) / rows)


@triton.jit
def _write_gradient(output, gradient, p, z, p_stride, z_stride, features, eps, BLOCK: tl.constexpr):
    """Write the gradient of p·z / ‖p‖‖z‖ with respect to p: (ẑ − (p̂·ẑ) p̂) / ‖p‖, or ẑ / eps where ‖p‖ < eps."""
    p_row, p_norm, unit = _load_row(p, p_stride, features, eps, BLOCK)
    z_row, z_norm, _ = _load_row(z, z_stride, features, eps, BLOCK)
    p_row /= p_norm
    z_row /= z_norm
    along = tl.where(p_norm > eps / unit, tl.sum(p_row * z_row, axis=0), 0.0)
    result = gradient * (z_row - along * p_row) / p_norm / unit
    column = tl.arange(0, BLOCK)
    output += tl.program_id(0).to(tl.int64) * features + column
    tl.store(output, result.to(output.dtype.element_ty), mask=column < features)


@triton.jit
def _backward(
    p1_gradient,
    p2_gradient,
    gradient,
    p1,
    p2,
    z1,
    z2,
    p1_stride,
    p2_stride,
    z1_stride,
    z2_stride,
    rows,
    features,
    eps,
    BLOCK: tl.constexpr,
):
    share = -0.5 * tl.load(gradient) / rows
    _write_gradient(p1_gradient, share, p1, z2, p1_stride, z2_stride, features, eps, BLOCK)
    _write_gradient(p2_gradient, share, p2, z1, p2_stride, z1_stride, features, eps, BLOCK)
