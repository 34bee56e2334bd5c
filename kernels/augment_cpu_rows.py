"""Compiled loops of `augment_views_cpu`: the views of a range, row by row, in machine code by numba.

Why: a row stays in the first-level cache from one operation to the next, and the float32 image in the second. To switch
it off, give `augment_views` the argument `implementation="reference"`.

There are three sweeps over the rows of a view: the operations up to contrast, which needs the mean of all rows; the
others and the blur along rows; the blur along columns and everything after it.

Compiling takes about ten seconds, once on a machine: numba caches the result next to this file or in the user's cache.
It looks for changes in this file alone, so everything that is compiled is here.
"""

import numba
import numpy as np

from simsiam.kernels.augment_contract import BRIGHTNESS, CONTRAST, HUE, SATURATION
from simsiam.kernels.compiled_once import compiled_once

# The taps at both ends of a Gaussian are skipped as long as they weigh less than this together: the two passes of the
# blur are then within 2 × this, a quarter of 1/255, of the full kernel.
_SKIPPED_WEIGHT = 1 / 255 / 8

# `row` is float32 (3, size), planar, in [0, 1]. A bare 0.5 would be a float64, and turn its results into float64.
_ZERO, _HALF, _ONE, _TWO, _FOUR, _SIX = (np.float32(number) for number in (0, 0.5, 1, 2, 4, 6))
_SIXTH, _TINY, _PER_LEVEL = np.float32(1 / 6), np.finfo(np.float32).tiny, np.float32(1 / 255)
_RED, _GREEN, _BLUE = np.float32(0.2989), np.float32(0.587), np.float32(0.114)

# No value is NaN. The compiler may choose the order of a sum, but it is the same each time. Threads run in parallel.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"nnan", "nsz", "reassoc", "contract"}}
_compile = numba.njit(**_OPTIONS)


@compiled_once(numba.njit, **_OPTIONS)
def augment_range(first, last, pixels, draws, scale, offset, reach, out):
    """Write the views `first` up to but not including `last` of `out`.

    `pixels` and the fields of `draws` are C-contiguous arrays of `augment_views`'s shapes and types; a view is
    normalised by float32 (3,) `scale` and `offset`, and blurred with at most `reach` pixels to each side. `out`
    (views·n, size, size, 3) is float32, or uint16 for the bits of bfloat16.
    """
    count, _, size, _, _ = pixels.shape
    image = np.empty((size, 3, size), np.float32)
    padded = np.empty(size + 2 * reach, np.float32)
    blurred = np.empty((3, size), np.float32)
    for number in range(first, last):
        view, index = divmod(number, count)
        amounts, operations = draws.jitter[index, view], draws.order[index, view]
        contrast = _turn_of_contrast(amounts, operations)
        weights = _gaussian(draws.sigma[index, view], reach)

        luma = 0.0
        for y in range(size):
            row = image[y]
            _load(pixels[index, view, y], draws.flip[index, view], row)
            for operation in operations[:contrast]:
                _adjust(row, operation, amounts)
            if contrast < 4:
                luma += _sum_luma(row)
        pivot = np.float32(luma / size**2)

        for y in range(size):
            row = image[y]
            if contrast < 4:
                _contrast(row, amounts[CONTRAST], pivot)
            for operation in operations[contrast + 1 :]:
                _adjust(row, operation, amounts)
            if draws.gray[index, view]:
                _gray(row)
            if len(weights) > 1:
                _blur_along_row(row, weights, padded)

        for y in range(size):
            row = image[y]
            if len(weights) > 1:
                _blur_along_columns(image, y, weights, blurred)
                row = blurred
            if draws.solarize[index, view]:
                _solarize(row)
            _store(row, scale, offset, out[number, y])


@_compile
def _turn_of_contrast(amounts, operations):
    """Return when contrast is changed: first, second, third, fourth (0 … 3), or never (4)."""
    if amounts[CONTRAST] != _ONE:
        for turn in range(4):
            if operations[turn] == CONTRAST:
                return turn
    return 4


@_compile
def _load(pixels, flip, row):
    # Flipping commutes with all that follows. LLVM vectorises channel by channel (measured: 2.5 × as fast).
    size = len(pixels)
    for channel in range(3):
        line = row[channel]
        if flip:
            for x in range(size):
                line[size - 1 - x] = np.float32(pixels[x, channel]) * _PER_LEVEL
        else:
            for x in range(size):
                line[x] = np.float32(pixels[x, channel]) * _PER_LEVEL


@_compile
def _adjust(row, operation, amounts):
    amount = amounts[operation]
    if operation == BRIGHTNESS and amount != _ONE:
        _brightness(row, amount)
    elif operation == SATURATION and amount != _ONE:
        _saturation(row, amount)
    elif operation == HUE and amount != _ZERO:
        _hue(row, amount)


@_compile
def _clamp(value):
    value = value if value > _ZERO else _ZERO
    return value if value < _ONE else _ONE


@_compile
def _luma(red, green, blue):
    return _RED * red + _GREEN * green + _BLUE * blue


@_compile
def _sum_luma(row):
    total = _ZERO
    for x in range(row.shape[1]):
        total += _luma(row[0, x], row[1, x], row[2, x])
    return total


@_compile
def _brightness(row, factor):
    values = row.reshape(-1)
    for i in range(len(values)):
        values[i] = _clamp(values[i] * factor)


@_compile
def _contrast(row, factor, pivot):
    values = row.reshape(-1)
    added = (_ONE - factor) * pivot
    for i in range(len(values)):
        values[i] = _clamp(values[i] * factor + added)


@_compile
def _saturation(row, factor):
    red, green, blue = row[0], row[1], row[2]
    for x in range(len(red)):
        added = (_ONE - factor) * _luma(red[x], green[x], blue[x])
        red[x] = _clamp(red[x] * factor + added)
        green[x] = _clamp(green[x] * factor + added)
        blue[x] = _clamp(blue[x] * factor + added)


@_compile
def _hue(row, shift):
    """Turn the hue at the same HSV saturation and value; every choice is one of two numbers, which vectorises."""
    red, green, blue = row[0], row[1], row[2]
    turn = shift * _SIX
    for x in range(len(red)):
        r, g, b = red[x], green[x], blue[x]
        value = r if r > g else g
        value = value if value > b else b
        low = r if r < g else g
        low = low if low < b else b
        chroma = value - low
        # The hue in sixths of a turn is `own`, that of the largest channel, plus the difference of the other two.
        own, difference = _FOUR, r - g
        own, difference = (_TWO, b - r) if g == value else (own, difference)
        own, difference = (_ZERO, g - b) if r == value else (own, difference)
        hue = own + turn + difference / (chroma if chroma > _TINY else _TINY)
        red[x] = value - chroma * _fall(hue)
        green[x] = value - chroma * _fall(hue - _TWO)
        blue[x] = value - chroma * _fall(hue - _FOUR)


@_compile
def _fall(distance):
    """Return the share of the chroma that a channel is below the value, `distance` sixths of a turn from its hue."""
    shorter_way = np.abs(distance - _SIX * np.rint(distance * _SIXTH))
    return _clamp(shorter_way - _ONE)


@_compile
def _gray(row):
    for x in range(row.shape[1]):
        luma = _luma(row[0, x], row[1, x], row[2, x])
        row[0, x] = luma
        row[1, x] = luma
        row[2, x] = luma


@_compile
def _gaussian(sigma, reach):
    """Return the weights of the pixels at distance 0, 1, … up to `reach`; a single 1 for no blur."""
    if not sigma > 0:
        return np.ones(1, np.float32)
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    total = 2 * weights.sum() - 1
    kept = total
    while reach > 0 and total - (kept - 2 * weights[reach]) < _SKIPPED_WEIGHT * total:
        kept -= 2 * weights[reach]
        reach -= 1
    return (weights[: reach + 1] / kept).astype(np.float32)


@_compile
def _blur_along_row(row, weights, padded):
    size, reach = row.shape[1], len(weights) - 1
    for channel in range(3):
        line, middle = row[channel], padded[reach:]
        for x in range(size):
            middle[x] = line[x]
            line[x] *= weights[0]
        for distance in range(1, reach + 1):
            padded[reach - distance] = padded[reach + distance]
            middle[size - 1 + distance] = middle[size - 1 - distance]
        for distance in range(1, reach + 1):
            weight, left, right = weights[distance], padded[reach - distance :], padded[reach + distance :]
            for x in range(size):
                line[x] += weight * (left[x] + right[x])


@_compile
def _blur_along_columns(image, y, weights, blurred):
    last = len(image) - 1
    total, middle = blurred.reshape(-1), image[y].reshape(-1)
    for i in range(len(total)):
        total[i] = weights[0] * middle[i]
    for distance in range(1, len(weights)):
        weight = weights[distance]
        above = image[abs(y - distance)].reshape(-1)
        below = image[last - abs(last - y - distance)].reshape(-1)
        for i in range(len(total)):
            total[i] += weight * (above[i] + below[i])


@_compile
def _solarize(row):
    values = row.reshape(-1)
    for i in range(len(values)):
        values[i] = _ONE - values[i] if values[i] >= _HALF else values[i]


@_compile
def _store(row, scale, offset, out):
    for x in range(len(out)):
        red = row[0, x] * scale[0] + offset[0]
        green = row[1, x] * scale[1] + offset[1]
        blue = row[2, x] * scale[2] + offset[2]
        if out.itemsize == 2:
            out[x, 0], out[x, 1], out[x, 2] = _bfloat16(red), _bfloat16(green), _bfloat16(blue)
        else:
            out[x, 0], out[x, 1], out[x, 2] = red, green, blue


@_compile
def _bfloat16(value):
    """Return the bits of a finite float32, rounded to the nearest bfloat16, ties to even: its upper half."""
    bits = np.float32(value).view(np.uint32)
    return (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
