"""Forward kernels of `batch_norm_relu` on a GPU: statistics of each view, and the normalised, rectified output.

Two functions, so that a synchronised batch norm can merge the statistics of its ranks in between:
`local_statistics`, `merge_statistics`, `normalize`.
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


def local_statistics(x: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each view's channels, float32 (views, channels)."""
    values = matrix(x)
    rows, channels = values.shape[0] // views, values.shape[1]
    plan = ReductionPlan(rows, channels, views)
    partial = torch.empty((2, views, plan.count, channels), dtype=torch.float32, device=x.device)
    mean, variance = (torch.empty((views, channels), dtype=torch.float32, device=x.device) for _ in range(2))
    _partial_statistics[plan.grid](values, *partial, rows, channels, plan.rows, **plan.blocks)
    _merge_statistics[(triton.cdiv(channels, 16), views)](
        *partial, mean, variance, rows, channels, plan.rows, plan.count, CHANNELS=16, CHUNKS=64
    )
    return mean, variance


def normalize(x: Tensor, residual: Tensor | None, norm: Norm, relu: bool) -> Tensor:
    """Return relu(norm(x) + residual), of the shape and dtype of `x`."""
    views, channels = norm.mean.shape
    output = empty_activations(x)
    rows, grid, blocks = map_plan(x, views)
    _normalize[grid](
        matrix(x),
        None if residual is None else matrix(residual),
        norm,
        matrix(output),
        rows,
        channels,
        RELU=relu,
        **blocks,
    )
    return output


@triton.jit
def _partial_statistics(x, means, squares, rows, channels, chunk_rows, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Write the mean of a chunk of rows and the sum of squares about it: Welford's recurrence in each slot of a tile.

    No square is ever subtracted from another, so a mean far from zero costs no precision.
    """
    column, _, column_mask = columns(channels, CHANNELS)
    first = tl.program_id(0) * chunk_rows
    slot = tl.arange(0, ROWS)
    mean = tl.zeros((ROWS, CHANNELS), tl.float32)
    square = tl.zeros((ROWS, CHANNELS), tl.float32)
    seen = 0.0
    for start in range(0, chunk_rows, ROWS):
        offset, mask = offsets(first + start + slot, rows, column, channels)
        value = tl.load(x + offset, mask=mask, other=0.0).to(tl.float32)
        seen += 1
        difference = tl.where(mask, value - mean, 0.0)
        mean += difference * (1 / seen)
        square += difference * (value - mean)
    # Rows that each slot has seen: in the last chunk of a view it may be fewer.
    last = tl.minimum(first + chunk_rows, rows)
    count = (tl.maximum(last - first - slot + ROWS - 1, 0) // ROWS).to(tl.float32)[:, None]
    # Only differences are averaged: a channel that is the same everywhere has exactly that mean.
    base = tl.sum(tl.where(slot[:, None] == 0, mean, 0.0), axis=0)
    chunk_mean = base + tl.sum(count * (mean - base[None, :]), axis=0) / (last - first)
    apart = mean - chunk_mean[None, :]
    partial = (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * channels + column
    tl.store(means + partial, chunk_mean, mask=column_mask)
    tl.store(squares + partial, tl.sum(square + count * apart * apart, axis=0), mask=column_mask)


@triton.jit
def _merge_statistics(
    means, squares, mean, variance, rows, channels, chunk_rows, chunks, CHANNELS: tl.constexpr, CHUNKS: tl.constexpr
):
    """Merge the chunks of one view (Chan, Golub, LeVeque 1983, eq. 2.1, for any number of parts)."""
    view = tl.program_id(1)
    column = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    base = tl.load(means + view * chunks * channels + column, mask=column < channels, other=0.0)
    total = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        mask = (chunk < chunks)[:, None] & (column < channels)[None, :]
        share = tl.minimum(chunk_rows, rows - chunk * chunk_rows).to(tl.float32)[:, None] / rows
        offset = (view * chunks + chunk)[:, None] * channels + column[None, :]
        apart = tl.load(means + offset, mask=mask, other=0.0) - base[None, :]
        total += tl.sum(tl.where(mask, share * apart, 0.0), axis=0)
    total += base
    spread = tl.zeros((CHANNELS,), tl.float32)
    for start in range(0, chunks, CHUNKS):
        chunk = start + tl.arange(0, CHUNKS)
        mask = (chunk < chunks)[:, None] & (column < channels)[None, :]
        share = tl.minimum(chunk_rows, rows - chunk * chunk_rows).to(tl.float32)[:, None] / rows
        offset = (view * chunks + chunk)[:, None] * channels + column[None, :]
        apart = tl.load(means + offset, mask=mask, other=0.0) - total[None, :]
        own = tl.load(squares + offset, mask=mask, other=0.0) / rows
        spread += tl.sum(tl.where(mask, own + share * apart * apart, 0.0), axis=0)
    tl.store(mean + view * channels + column, total, mask=column < channels)
    tl.store(variance + view * channels + column, spread, mask=column < channels)


@triton.jit
def _normalize(
    x, residual, norm, output, rows, channels, RELU: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    column, statistic, column_mask = columns(channels, CHANNELS)
    mean, inverse, scale, shift = load_norm(norm, column, statistic, column_mask)
    offset, mask = offsets(tl.program_id(0) * ROWS + tl.arange(0, ROWS), rows, column, channels)
    value = (tl.load(x + offset, mask=mask, other=0.0).to(tl.float32) - mean) * (inverse * scale) + shift
    if residual is not None:
        value += tl.load(residual + offset, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        # Not a maximum, which would turn NaN into 0.
        value = tl.where(value < 0, 0.0, value)
    tl.store(output + offset, value.to(output.dtype.element_ty), mask=mask)
