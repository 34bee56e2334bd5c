"""Activations of several views as matrices, and their division among the programs of a Triton kernel.

A view is a matrix (rows, channels) with the pixels of all its images as rows. Reductions go over chunks of rows whose
number depends on the shape alone, and are added up in fixed order: the same bits on every run and every device.
"""

import triton
import triton.language as tl
from torch import Tensor

_REDUCING_PROGRAMS = 1024
_REDUCED_TILE, _MAPPED_TILE = 2048, 4096


def matrix(x: Tensor) -> Tensor:
    """Return `x` as (rows, channels): without a copy if it is channels-last."""
    x = x.permute(0, 2, 3, 1) if x.ndim == 4 else x
    return x.contiguous().view(-1, x.shape[-1])


def map_plan(x: Tensor, views: int) -> tuple[int, tuple[int, int, int], dict[str, int]]:
    """Return the number of a view's rows, and grid and block of an elementwise kernel."""
    channels = x.shape[1]
    rows = x.numel() // (views * channels)
    block = min(triton.next_power_of_2(channels), 64)
    grid = (triton.cdiv(rows, _MAPPED_TILE // block), triton.cdiv(channels, block), views)
    return rows, grid, {"ROWS": _MAPPED_TILE // block, "CHANNELS": block}


class ReductionPlan:
    """How the rows of a view are divided among the programs of a reduction."""

    def __init__(self, rows: int, channels: int, views: int) -> None:
        block = min(triton.next_power_of_2(channels), 64)
        tile = _REDUCED_TILE // block
        columns = triton.cdiv(channels, block)
        chunks = max(1, min(_REDUCING_PROGRAMS // (columns * views), triton.cdiv(rows, 4 * tile)))
        self.rows = triton.cdiv(triton.cdiv(rows, chunks), tile) * tile
        self.count = triton.cdiv(rows, self.rows)
        self.grid = (self.count, columns, views)
        self.blocks = {"ROWS": tile, "CHANNELS": block}


@triton.jit
def columns(channels, CHANNELS: tl.constexpr):
    """Return this program's channels, their offsets in (views, channels), and which of them exist."""
    column = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return column, tl.program_id(2) * channels + column, column < channels


@triton.jit
def offsets(row, rows, column, channels):
    """Return the offsets of rows of this program's view in a matrix of all views, and which of them exist."""
    offset = (tl.program_id(2).to(tl.int64) * rows + row)[:, None] * channels + column[None, :]
    return offset, (row < rows)[:, None] & (column < channels)[None, :]


@triton.jit
def load_norm(norm, column, statistic, mask):
    """Return mean, 1 / standard deviation, scale and shift of channels as one row each; `statistic` are offsets."""
    mean = tl.load(norm.mean + statistic, mask=mask, other=0.0)
    inverse = 1 / tl.sqrt(tl.load(norm.variance + statistic, mask=mask, other=1.0) + norm.eps)
    scale = tl.full(column.shape, 1.0, tl.float32)
    shift = tl.full(column.shape, 0.0, tl.float32)
    if norm.weight is not None:
        scale = tl.load(norm.weight + column, mask=mask, other=0.0).to(tl.float32)
    if norm.bias is not None:
        shift = tl.load(norm.bias + column, mask=mask, other=0.0).to(tl.float32)
    return mean[None, :], inverse[None, :], scale[None, :], shift[None, :]
