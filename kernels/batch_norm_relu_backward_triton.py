"""The output's gradient → those of input, residual, weight and bias: the backward kernels of `batch_norm_relu`.

They are apart so that a synchronised batch norm can add up its ranks' sums in between: `gradient_sums`, a sum over
ranks, then `input_gradient` with the values of all ranks as its `count`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from simsiam.kernels.view_matrix_triton import (
    Norm,
    ReductionPlan,
    columns,
    empty_like,
    load_norm,
    map_plan,
    matrix,
    places,
)


def gradient_sums(
    gradient: Tensor,
    x: Tensor,
    output: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    relu: bool,
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return what passes ReLU of the gradient, and its sums.

    Where ReLU cut is read from `output`, if that is given; else it is worked out from `x`.

    Returns:
        The gradient that passed, in its dtype, if `output` is given; else None.
        Σ g and Σ g·(x normalised) over rows, float32 (2, views, channels).
        Both summed over views, (2, channels): the gradients of bias and weight.
    """
    values = matrix(x)
    views, channels = mean.shape
    rows = values.shape[0] // views
    plan = ReductionPlan(rows, channels, views)
    cut = None if output is None else empty_like(gradient)
    partial = torch.empty((2, views, plan.count, channels), dtype=torch.float32, device=x.device)
    sums = torch.empty((2, views, channels), dtype=torch.float32, device=x.device)
    totals = torch.empty((2, channels), dtype=torch.float32, device=x.device)
    _partial_sums[plan.grid](
        matrix(gradient),
        values,
        None if output is None else matrix(output),
        None if cut is None else matrix(cut),
        Norm(mean, variance, weight, bias),
        *partial,
        rows,
        channels,
        plan.rows,
        eps,
        RELU=relu,
        **plan.blocks,
    )
    _merge_sums[(triton.cdiv(channels, 16), 2)](
        partial, sums, totals, channels, plan.count, VIEWS=views, CHANNELS=16, CHUNKS=64
    )
    return cut, sums, totals


def input_gradient(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    sums: Tensor,
    count: int,
    eps: float,
    relu: bool,
) -> Tensor:
    """Return the gradient to `x`, given the sums (2, views, channels) over all `count` values of a view's channel.

    With `relu`, `gradient` is the one before ReLU. Ioffe and Szegedy 2015 (arXiv 1502.03167), §3, gives the formula.
    """
    views, channels = mean.shape
    result = empty_like(x)
    rows, grid, blocks = map_plan(x, views)
    _input_gradient[grid](
        matrix(gradient),
        matrix(x),
        Norm(mean, variance, weight, bias),
        *sums,
        matrix(result),
        rows,
        channels,
        1 / count,
        eps,
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
    eps,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    column, statistic, column_mask = columns(channels, CHANNELS)
    mean, inverse, scale, shift = load_norm(norm, column, statistic, column_mask, eps)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    product = tl.zeros((ROWS, CHANNELS), tl.float32)
    first = tl.program_id(0) * chunk_rows
    for start in range(0, chunk_rows, ROWS):
        place, mask = places(first + start + tl.arange(0, ROWS), rows, column, channels)
        passed = tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
        centered = tl.where(mask, tl.load(x + place, mask=mask, other=0.0).to(tl.float32) - mean, 0.0)
        if output is not None:
            passed = tl.where(tl.load(output + place, mask=mask, other=0.0) > 0, passed, 0.0)
            tl.store(cut + place, passed.to(cut.dtype.element_ty), mask=mask)
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
            place = ((which * VIEWS + view) * chunks + chunk)[:, None] * channels + column[None, :]
            of_view += tl.sum(tl.load(partial + place, mask=mask, other=0.0), axis=0)
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
    eps,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    column, statistic, column_mask = columns(channels, CHANNELS)
    mean, inverse, scale, shift = load_norm(norm, column, statistic, column_mask, eps)
    mean_gradient = tl.load(sums + statistic, mask=column_mask, other=0.0)[None, :] * per_value
    mean_product = tl.load(products + statistic, mask=column_mask, other=0.0)[None, :] * per_value
    place, mask = places(tl.program_id(0) * ROWS + tl.arange(0, ROWS), rows, column, channels)
    passed = tl.load(gradient + place, mask=mask, other=0.0).to(tl.float32)
    centered = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) - mean
    if RELU:
        passed = tl.where(centered * (inverse * scale) + shift > 0, passed, 0.0)
    value = (inverse * scale) * (passed - mean_gradient - centered * inverse * mean_product)
    tl.store(result + place, value.to(result.dtype.element_ty), mask=mask)
