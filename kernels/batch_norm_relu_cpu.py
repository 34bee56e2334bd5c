"""Kernels of `batch_norm_relu` on a CPU, forward and backward, in machine code by numba.

Why: plain PyTorch passes over the activations once for each of batch norm, sum and ReLU. Here each thread takes chunks
of rows (a row is the channels of one pixel), so that a chunk stays in the second-level cache from one pass to the next.
To switch it off, set `fused_batch_norm: off` in a run's configuration.

The sums of the chunks are added in their order: the same bits for any number of threads.

numba caches what it compiles next to this file or in the user's cache, and looks for changes in this file alone.
"""

# An intrinsic of numba's is called without the context that its definition takes first.
# pyright: reportCallIssue=false

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numba import carray, cfunc, njit, types  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor

from simsiam.kernels.batch_norm_relu_contract import Norm, empty_activations
from simsiam.kernels.compiled_once import compiled_once
from simsiam.kernels.openmp_team import pointer, run_on_team, team_size, thread_number

_CHUNK_BYTES = 128 << 10

_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"nsz", "reassoc", "contract"}}
_inline = njit(**_OPTIONS)
_team_function = compiled_once(cfunc, types.void(types.CPointer(types.int64)), **_OPTIONS)
_ZERO = np.float32(0)
# Comparisons are written so that a NaN is neither cut nor replaced, as in PyTorch: a check for NaN must find it.


class _Chunks(NamedTuple):
    """How the rows of each view are divided."""

    views: int
    rows: int
    """Rows of a view."""
    channels: int
    size: int
    """Rows of a chunk; the last of a view may have fewer."""
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.count, which nobody calls
    """Chunks of a view."""


def local_statistics(x: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance of each view's channels, float32 (views, channels).

    No square is ever subtracted from another, so a mean far from zero costs no precision (Chan, Golub, LeVeque 1983).
    """
    values = _matrix(x)
    chunks = _plan(values, views)
    means, squares = np.empty((2, views, chunks.count, chunks.channels), np.float32)
    run_on_team(_statistics, [_address(values), _address(means), _address(squares), *chunks])
    counts = np.full(chunks.count, chunks.size, np.float64)
    counts[-1] = chunks.rows - (chunks.count - 1) * chunks.size
    share = (counts / chunks.rows)[:, None]
    mean = (share * means).sum(1)
    variance = squares.sum(1, dtype=np.float64) / chunks.rows + (share * np.square(means - mean[:, None])).sum(1)
    return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(variance.astype(np.float32))


def normalize(x: Tensor, residual: Tensor | None, norm: Norm, relu: bool) -> Tensor:
    """Return relu(norm(x) + residual), of the shape of `x`."""
    values, output = _matrix(x), empty_activations(x)
    added = None if residual is None else _matrix(residual)
    tensors = (values, added, _matrix(output), norm.mean, _scale(norm), _shift(norm))
    run_on_team(_normalize, [*map(_address, tensors), relu, *_plan(values, len(norm.mean))])
    return output


def gradient_sums(
    gradient: Tensor, x: Tensor, output: Tensor | None, norm: Norm, relu: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradient of ReLU's input if `output` is given, else None, and its sums.

    The sums are those of the gradient and of the gradient times the normalised activations: float32 (2, views,
    channels), and both over all views, float32 (2, channels): the gradients of bias and weight.
    """
    passed, values = _matrix(gradient), _matrix(x)
    chunks = _plan(values, len(norm.mean))
    cut = None if output is None else empty_activations(x)
    partial = np.empty((2, chunks.views, chunks.count, chunks.channels), np.float32)
    outputs, cut_values = (None if each is None else _matrix(each) for each in (output, cut))
    tensors = (passed, values, outputs, cut_values, norm.mean, _scale(norm), _shift(norm), *partial)
    run_on_team(_gradient_sums, [*map(_address, tensors), relu, *chunks])
    sums = partial.sum(2, dtype=np.float64)
    sums[1] *= (norm.variance.double() + norm.eps).rsqrt().numpy()
    along = torch.from_numpy(sums.astype(np.float32))
    return cut, along, torch.from_numpy(sums.sum(1).astype(np.float32))


def input_gradient(gradient: Tensor, x: Tensor, norm: Norm, sums: Tensor, count: int, relu: bool) -> Tensor:
    """Return the gradient of `x`, given the sums of `gradient_sums` over all `count` values of a view's channel.

    With `relu`, `gradient` is that of the output, which ReLU still has to cut.
    """
    passed, values, result = _matrix(gradient), _matrix(x), empty_activations(x)
    scale = _scale(norm)
    along_one, along_x = sums / count
    slope = -scale * along_x * (norm.variance + norm.eps).rsqrt()
    constant = -scale * along_one
    tensors = (passed, values, _matrix(result), norm.mean, scale, _shift(norm), slope, constant)
    run_on_team(_input_gradient, [*map(_address, tensors), relu, *_plan(values, len(norm.mean))])
    return result


def _matrix(x: Tensor) -> Tensor:
    """(n, channels, …) → (rows, channels), contiguous: no copy of a channels-last batch."""
    return x.movedim(1, -1).reshape(-1, x.shape[1]).contiguous()


def _plan(values: Tensor, views: int) -> _Chunks:
    rows, channels = values.shape[0] // views, values.shape[1]
    size = min(rows, max(1, _CHUNK_BYTES // (4 * channels)))
    return _Chunks(views, rows, channels, size, -(-rows // size))


def _address(array: Tensor | npt.NDArray[np.float32] | None) -> int:
    """Return the address of the values, which the caller must keep alive; 0 for none."""
    if array is None:
        return 0
    return array.data_ptr() if isinstance(array, Tensor) else array.ctypes.data


def _scale(norm: Norm) -> Tensor:
    inverse = (norm.variance + norm.eps).rsqrt()
    return inverse if norm.weight is None else inverse * norm.weight


def _shift(norm: Norm) -> Tensor:
    if norm.bias is None:
        return torch.zeros_like(norm.mean)
    return norm.bias.detach().expand_as(norm.mean).contiguous()


@_inline
def _my_chunks(views, count):
    """Return this thread's first chunk of all views, and the chunk after its last."""
    total, mine, threads = views * count, thread_number(), team_size()
    return total * mine // threads, total * (mine + 1) // threads


@_inline
def _rows_of(chunk, rows, size, count):
    """Return view, first row and the row after the last of a chunk."""
    view, number = chunk // count, chunk % count
    return view, view * rows + number * size, view * rows + min((number + 1) * size, rows)


@_team_function
def _statistics(words):
    a = carray(words, 8)
    views, rows, channels, size, count = a[3], a[4], a[5], a[6], a[7]
    x = carray(pointer(a[0]), (views * rows, channels), np.float32)
    means = carray(pointer(a[1]), (views * count, channels), np.float32)
    squares = carray(pointer(a[2]), (views * count, channels), np.float32)
    start, end = _my_chunks(views, count)
    for chunk in range(start, end):
        _, first, last = _rows_of(chunk, rows, size, count)
        mean, square = means[chunk], squares[chunk]
        mean[:] = _ZERO
        square[:] = _ZERO
        for row in range(first, last):
            for c in range(channels):
                mean[c] += x[row, c]
        for c in range(channels):
            mean[c] /= np.float32(last - first)
        for row in range(first, last):
            for c in range(channels):
                difference = x[row, c] - mean[c]
                square[c] += difference * difference


@_team_function
def _normalize(words):
    a = carray(words, 12)
    relu, views, rows, channels, size, count = a[6], a[7], a[8], a[9], a[10], a[11]
    shape, small = (views * rows, channels), (views, channels)
    x, y = carray(pointer(a[0]), shape, np.float32), carray(pointer(a[2]), shape, np.float32)
    residual = carray(pointer(a[1]), shape, np.float32)
    means, scales = carray(pointer(a[3]), small, np.float32), carray(pointer(a[4]), small, np.float32)
    shifts = carray(pointer(a[5]), small, np.float32)
    start, end = _my_chunks(views, count)
    for chunk in range(start, end):
        view, first, last = _rows_of(chunk, rows, size, count)
        mean, scale, shift = means[view], scales[view], shifts[view]
        for row in range(first, last):
            if a[1] != 0:
                for c in range(channels):
                    y[row, c] = (x[row, c] - mean[c]) * scale[c] + shift[c] + residual[row, c]
            else:
                for c in range(channels):
                    y[row, c] = (x[row, c] - mean[c]) * scale[c] + shift[c]
            if relu:
                for c in range(channels):
                    y[row, c] = _ZERO if y[row, c] < _ZERO else y[row, c]


@_team_function
def _gradient_sums(words):
    a = carray(words, 15)
    relu, views, rows, channels, size, count = a[9], a[10], a[11], a[12], a[13], a[14]
    shape, small, partial = (views * rows, channels), (views, channels), (views * count, channels)
    gradient, x = carray(pointer(a[0]), shape, np.float32), carray(pointer(a[1]), shape, np.float32)
    output, cut = carray(pointer(a[2]), shape, np.float32), carray(pointer(a[3]), shape, np.float32)
    means, scales = carray(pointer(a[4]), small, np.float32), carray(pointer(a[5]), small, np.float32)
    shifts = carray(pointer(a[6]), small, np.float32)
    ones, xs = carray(pointer(a[7]), partial, np.float32), carray(pointer(a[8]), partial, np.float32)
    start, end = _my_chunks(views, count)
    for chunk in range(start, end):
        view, first, last = _rows_of(chunk, rows, size, count)
        mean, scale, shift = means[view], scales[view], shifts[view]
        one, along = ones[chunk], xs[chunk]
        one[:] = _ZERO
        along[:] = _ZERO
        for row in range(first, last):
            if a[2] != 0:
                for c in range(channels):
                    passed = _ZERO if output[row, c] <= _ZERO else gradient[row, c]
                    cut[row, c] = passed
                    one[c] += passed
                    along[c] += passed * (x[row, c] - mean[c])
            elif relu:
                for c in range(channels):
                    centred = x[row, c] - mean[c]
                    passed = _ZERO if centred * scale[c] + shift[c] <= _ZERO else gradient[row, c]
                    one[c] += passed
                    along[c] += passed * centred
            else:
                for c in range(channels):
                    one[c] += gradient[row, c]
                    along[c] += gradient[row, c] * (x[row, c] - mean[c])


@_team_function
def _input_gradient(words):
    a = carray(words, 14)
    relu, views, rows, channels, size, count = a[8], a[9], a[10], a[11], a[12], a[13]
    shape, small = (views * rows, channels), (views, channels)
    gradient, x = carray(pointer(a[0]), shape, np.float32), carray(pointer(a[1]), shape, np.float32)
    result = carray(pointer(a[2]), shape, np.float32)
    means, scales = carray(pointer(a[3]), small, np.float32), carray(pointer(a[4]), small, np.float32)
    shifts, slopes = carray(pointer(a[5]), small, np.float32), carray(pointer(a[6]), small, np.float32)
    constants = carray(pointer(a[7]), small, np.float32)
    start, end = _my_chunks(views, count)
    for chunk in range(start, end):
        view, first, last = _rows_of(chunk, rows, size, count)
        mean, scale, shift, slope, constant = means[view], scales[view], shifts[view], slopes[view], constants[view]
        for row in range(first, last):
            if relu:
                for c in range(channels):
                    centred = x[row, c] - mean[c]
                    passed = _ZERO if centred * scale[c] + shift[c] <= _ZERO else gradient[row, c]
                    result[row, c] = passed * scale[c] + centred * slope[c] + constant[c]
            else:
                for c in range(channels):
                    result[row, c] = gradient[row, c] * scale[c] + (x[row, c] - mean[c]) * slope[c] + constant[c]
