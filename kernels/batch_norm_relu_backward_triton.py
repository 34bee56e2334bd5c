"""Backward kernels of `batch_norm_relu` on a GPU: gradients of input, residual, weight and bias from the output's.

Two functions, so that a synchronised batch norm can add up the sums of its ranks in between: `gradient_sums`, a sum
over ranks, then `input_gradient` with the number of values of all ranks as its `count`.
"""

# Triton gives its language types of its own, in which a number is no constexpr and a kernel no launcher.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from simsiam.kernels.batch_norm_relu_contract import Norm, empty_activations
from simsiam.kernels.view_matrix_triton import ReductionPlan, columns, load_norm, map_plan, matrix, offsets


def gradient_sums(
    gradient: Tensor, x: Tensor, output: Tensor | None, norm: Norm, relu: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradient of ReLU's input, and its sums.

    Where ReLU cut is read from `output`, if that is given; otherwise it is recomputed from `x`.

    Returns:
        The gradient of ReLU's input, in the dtype of `gradient`, if `output` is given; else None.
        Σ g and Σ g·(x normalised) over rows, float32 (2, views, channels).
        Both summed over views, (2, channels): the gradients of bias and weight.
    """
    values = matrix(x)
    views, channels = norm.mean.shape
    rows = values.shape[0] // views
    plan = ReductionPlan(rows, channels, views)
    cut = None if output is None else empty_activations(gradient)
    partial = torch.empty((2, views, plan.count, channels), dtype=torch.float32, device=x.device)
    sums = torch.empty((2, views, channels), dtype=torch.float32, device=x.device)
    totals = torch.empty((2, channels), dtype=torch.float32, device=x.device)
    _partial_sums[plan.grid](
        matrix(gradient),
        values,
        None if output is None else matrix(output),
        None if cut is None else matrix(cut),
        norm,
        *partial,
        rows,
        channels,
        plan.rows,
        RELU=relu,
        **plan.blocks,
    )
    _merge_sums[(triton.cdiv(channels, 16), 2)](
        partial, sums, totals, channels, plan.count, VIEWS=views, CHANNELS=16, CHUNKS=64
    )
    return cut, sums, totals


def input_gradient(gradient: Tensor, x: Tensor, norm: Norm, sums: Tensor, count: int, relu: bool) -> Tensor:
    """Return the gradient of `x`, given the sums (2, views, channels) over all `count` values of a view's channel.

    With `relu`, `gradient` is that of the output, which ReLU still has to cut. The formula is from Ioffe and Szegedy
    2015 (arXiv 1502.03167), §3.
    """
    views, channels = norm.mean.shape
    result = empty_activations(x)
    rows, grid, blocks = map_plan(x, views)
    _input_gradient[grid](
        matrix(gradient),
        matrix(x),
        norm,
        *sums,
        matrix(result),
        rows,
        channels,
        1 / count,
        RELU=relu,
        **blocks,
    )
    return result


@triton.jit
def _partial_sums(
    gradient,
    x,
    output,
    cut,
    norm,
    sums,
    products,
    rows,
    channels,
    chunk_rows,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    column, statistic, column_mask = columns(channels, CHANNELS)
    mean, inverse, scale, shift = load_norm(norm, column, statistic, column_mask)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    product = tl.zeros((ROWS, CHANNELS), tl.float32)
    first = tl.program_id(0) * chunk_rows
    for start in range(0, chunk_rows, ROWS):
        offset, mask = offsets(first + start + tl.arange(0, ROWS), rows, column, channels)
        passed = tl.load(gradient + offset, mask=mask, other=0.0).to(tl.float32)
        centered = tl.where(mask, tl.load(x + offset, mask=mask, other=0.0).to(tl.float32) - mean, 0.0)
        if output is not None:
            passed = tl.where(tl.load(output + offset, mask=mask, other=0.0) > 0, passed, 0.0)
            tl.store(cut + offset, passed.to(cut.dtype.element_ty), mask=mask)
        elif RELU:
            passed = tl.where(centered * (inverse * scale) + shift > 0, passed, 0.0)
        total += passed
        product += passed * (centered * inverse)
    partial = (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * channels + column
    tl.store(sums + partial, tl.sum(total, axis=0), mask=column_mask)
    tl.store(products + partial, tl.sum(product, axis=0), mask=column_mask)


@triton.jit
def _merge_sums(
    partial,
    sums,
    totals,
    channels,
    chunks,
    VIEWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Add the chunks of each view, and the views, of Σ g (program 0 of the second axis) or Σ g·x̂ (program 1)."""
    which = tl.program_id(1)
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    column_mask = column < channels
    total = tl.zeros((CHANNELS,), tl.float32)
    for view in range(VIEWS):
        of_view = tl.zeros((CHANNELS,), tl.float32)
        for start in range(0, chunks, CHUNKS):
            chunk = start + tl.arange(0, CHUNKS)
            mask = (chunk < chunks)[:, None] & column_mask[None, :]
            offset = ((which * VIEWS + view) * chunks + chunk)[:, None] * channels + column[None, :]
            of_view += tl.sum(tl.load(partial + offset, mask=mask, other=0.0), axis=0)
        tl.store(sums + (which * VIEWS + view) * channels + column, of_view, mask=column_mask)
        total += of_view
    tl.store(totals + which * channels + column, total, mask=column_mask)


@triton.jit
def _input_gradient(
    gradient,
    x,
    norm,
    sums,
    products,
    result,
    rows,
    channels,
    per_value,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    column, statistic, column_mask = columns(channels, CHANNELS)
    mean, inverse, scale, shift = load_norm(norm, column, statistic, column_mask)
    mean_gradient = tl.load(sums + statistic, mask=column_mask, other=0.0)[None, :] * per_value
    mean_product = tl.load(products + statistic, mask=column_mask, other=0.0)[None, :] * per_value
    offset, mask = offsets(tl.program_id(0) * ROWS + tl.arange(0, ROWS), rows, column, channels)
    passed = tl.load(gradient + offset, mask=mask, other=0.0).to(tl.float32)
    centered = tl.load(x + offset, mask=mask, other=0.0).to(tl.float32) - mean
    if RELU:
        passed = tl.where(centered * (inverse * scale) + shift > 0, passed, 0.0)
    value = (inverse * scale) * (passed - mean_gradient - centered * inverse * mean_product)
    tl.store(result + offset, value.to(result.dtype.element_ty), mask=mask)
