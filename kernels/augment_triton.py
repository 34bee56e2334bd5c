"""`augment_views` on a GPU: four Triton launches, none of which the host waits for.

1. `_gray_means`: the mean about which contrast changes, of the image just before that operation; views without
   contrast cost nothing.
2. `_color`: jitter and grayscale. A view without blur is finished here: read once, written once.
3. `_blur_rows` and 4. `_blur_columns`: the two passes of the Gaussian, through planar scratch memory, for blurred views
   alone; the programs of the others return at once.

A program does a run of pixels of one view, so that every choice (which operation comes next, whether there is blur)
is the same for the whole program.
"""

# Triton gives its language types of its own, in which a number is no constexpr and a kernel no launcher.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from simsiam.kernels.augment_contract import BRIGHTNESS, CONTRAST, SATURATION, PhotometricDraws, empty_views

_BLOCK = 512
_MEAN_CHUNKS = 16
_BRIGHTNESS, _CONTRAST, _SATURATION = tl.constexpr(BRIGHTNESS), tl.constexpr(CONTRAST), tl.constexpr(SATURATION)


class _Target(NamedTuple):
    """The views to write, and how they are normalised."""

    output: Any
    mean: Any
    std: Any
    count: Any
    views: Any


def augment_views_triton(
    pixels: Tensor,
    draws: PhotometricDraws[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    blur_kernel: int,
) -> Tensor:
    """Return `augment_views` on a CUDA device; the arguments are taken as checked."""
    output = empty_views(pixels, dtype)
    if output.numel() == 0:
        return output
    count, views, size = pixels.shape[:3]
    images, area = count * views, size * size
    pixels = pixels.contiguous()
    draws = PhotometricDraws(*(draw.contiguous() for draw in draws))
    target = _Target(output, tuple(mean), tuple(std), count, views)
    # Half precision, rounded by 0.06/255 at most, where the result is no finer.
    scratch_dtype = torch.float32 if dtype.itemsize > 2 else torch.float16
    colored, half_blurred = torch.empty((2, images, 3, area), dtype=scratch_dtype, device=pixels.device)
    chunks = min(_MEAN_CHUNKS, triton.cdiv(area, _BLOCK))
    gray_sums = torch.empty((images, chunks), dtype=torch.float32, device=pixels.device)
    reach = min(blur_kernel // 2, size - 1)

    tiles = (triton.cdiv(area, _BLOCK) * images,)
    _gray_means[(chunks * images,)](pixels, draws, gray_sums, SIZE=size, CHUNKS=chunks, BLOCK=_BLOCK)
    _color[tiles](pixels, draws, gray_sums, colored, target, SIZE=size, CHUNKS=chunks, BLOCK=_BLOCK)
    _blur_rows[tiles](colored, draws, reach, half_blurred, SIZE=size, BLOCK=_BLOCK)
    _blur_columns[tiles](half_blurred, draws, reach, target, SIZE=size, BLOCK=_BLOCK)
    return output


@triton.jit
def _tile(SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Return this program's image and its pixels, counted from the image's first."""
    TILES: tl.constexpr = (SIZE * SIZE + BLOCK - 1) // BLOCK
    image, tile = tl.program_id(0) // TILES, tl.program_id(0) % TILES
    return image.to(tl.int64), tile * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _load_channel(channel, mask):
    return tl.load(channel, mask=mask, other=0).to(tl.float32) / 255


@triton.jit
def _load_rgb(pixels, image, pixel, SIZE: tl.constexpr):
    """Return R, G and B in [0, 1]."""
    mask = pixel < SIZE * SIZE
    pixels += 3 * (SIZE * SIZE * image + pixel)
    return _load_channel(pixels, mask), _load_channel(pixels + 1, mask), _load_channel(pixels + 2, mask)


@triton.jit
def _luma(rgb):
    return 0.2989 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


@triton.jit
def _blend(channel, other, factor):
    return tl.minimum(tl.maximum(factor * channel + (1 - factor) * other, 0.0), 1.0)


@triton.jit
def _blend_rgb(rgb, other, factor):
    return _blend(rgb[0], other, factor), _blend(rgb[1], other, factor), _blend(rgb[2], other, factor)


@triton.jit
def _fall(sixths, start, value, chroma):
    """Return a channel: `value`, less up to `chroma` with the distance from its own hue (see `augment.py`)."""
    sixths = sixths + start
    sixths = sixths - 6 * tl.floor(sixths / 6)
    return value - chroma * tl.minimum(tl.maximum(tl.minimum(sixths, 4 - sixths), 0.0), 1.0)


@triton.jit
def _turn_hue(rgb, shift):
    red, green, blue = rgb
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    difference = tl.where(red == value, green - blue, tl.where(green == value, blue - red, red - green))
    own = tl.where(red == value, 0.0, tl.where(green == value, 2.0, 4.0))
    # Gray has no hue: there difference and chroma are 0.
    sixths = difference / tl.where(chroma == 0, 1.0, chroma) + own + 6 * shift
    return _fall(sixths, 5.0, value, chroma), _fall(sixths, 3.0, value, chroma), _fall(sixths, 1.0, value, chroma)


@triton.jit
def _jitter(rgb, draws, image, pivot, UP_TO_CONTRAST: tl.constexpr):
    """Apply the four operations in this view's order: all of them, or those before contrast.

    Factors of 1 leave every bit as it is; a hue shift of 0 would round, so it is skipped.
    """
    red, green, blue = rgb
    jitter = draws.jitter + 4 * image
    included = True
    for turn in tl.static_range(4):
        operation = tl.load(draws.order + 4 * image + turn).to(tl.int32)
        amount = tl.load(jitter + operation)
        if UP_TO_CONTRAST:
            included = included and operation != _CONTRAST
        if included:
            if operation == _BRIGHTNESS:
                red, green, blue = _blend_rgb((red, green, blue), 0.0, amount)
            elif operation == _CONTRAST:
                red, green, blue = _blend_rgb((red, green, blue), pivot, amount)
            elif operation == _SATURATION:
                red, green, blue = _blend_rgb((red, green, blue), _luma((red, green, blue)), amount)
            elif amount != 0:
                red, green, blue = _turn_hue((red, green, blue), amount)
    return red, green, blue


@triton.jit
def _gray_means(pixels, draws, gray_sums, SIZE: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """Sum the luma of one chunk of a view just before contrast, over the area: the chunks add up to the mean."""
    AREA: tl.constexpr = SIZE * SIZE
    chunk, image = tl.program_id(0) % CHUNKS, (tl.program_id(0) // CHUNKS).to(tl.int64)
    if tl.load(draws.jitter + 4 * image + _CONTRAST) != 1:
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(chunk * BLOCK, AREA, CHUNKS * BLOCK):
            pixel = start + tl.arange(0, BLOCK)
            rgb = _jitter(_load_rgb(pixels, image, pixel, SIZE), draws, image, 0.0, UP_TO_CONTRAST=True)
            total += tl.where(pixel < AREA, _luma(rgb), 0.0)
        tl.store(gray_sums + CHUNKS * image + chunk, tl.sum(total, axis=0) / AREA)


@triton.jit
def _store_rgb(rgb, pointer, STEP: tl.constexpr, mask):
    dtype = pointer.dtype.element_ty
    tl.store(pointer, rgb[0].to(dtype), mask=mask)
    tl.store(pointer + STEP, rgb[1].to(dtype), mask=mask)
    tl.store(pointer + 2 * STEP, rgb[2].to(dtype), mask=mask)


@triton.jit
def _solarize(channel, chosen):
    return tl.where(chosen & (channel >= 0.5), 1 - channel, channel)


@triton.jit
def _finish(rgb, draws, image, pixel, target, SIZE: tl.constexpr):
    """Solarize, flip, normalise and cast pixels of an image (n, view), and write them to (view, n), channels last."""
    chosen = tl.load(draws.solarize + image) != 0
    red = (_solarize(rgb[0], chosen) - target.mean[0]) / target.std[0]
    green = (_solarize(rgb[1], chosen) - target.mean[1]) / target.std[1]
    blue = (_solarize(rgb[2], chosen) - target.mean[2]) / target.std[2]
    flipped = tl.load(draws.flip + image) != 0
    written = tl.where(flipped, pixel + (SIZE - 1 - 2 * (pixel % SIZE)), pixel)
    output = target.output + 3 * SIZE * SIZE * (image % target.views * target.count + image // target.views)
    _store_rgb((red, green, blue), output + 3 * written, 1, pixel < SIZE * SIZE)


@triton.jit
def _color(pixels, draws, gray_sums, colored, target, SIZE: tl.constexpr, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    AREA: tl.constexpr = SIZE * SIZE
    image, pixel = _tile(SIZE, BLOCK)
    pivot = 0.0
    if tl.load(draws.jitter + 4 * image + _CONTRAST) != 1:
        for chunk in tl.static_range(CHUNKS):
            pivot += tl.load(gray_sums + CHUNKS * image + chunk)
    red, green, blue = _jitter(_load_rgb(pixels, image, pixel, SIZE), draws, image, pivot, UP_TO_CONTRAST=False)
    if tl.load(draws.gray + image) != 0:
        red = _luma((red, green, blue))
        green = red
        blue = red
    if tl.load(draws.sigma + image) > 0:
        _store_rgb((red, green, blue), colored + 3 * AREA * image + pixel, AREA, pixel < AREA)
    else:
        _finish((red, green, blue), draws, image, pixel, target, SIZE)


@triton.jit
def _load_pair(first, second, mask):
    first = tl.load(first, mask=mask, other=0.0).to(tl.float32)
    return first + tl.load(second, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _blur(planes, pixel, position, STEP: tl.constexpr, sigma, reach, SIZE: tl.constexpr):
    """Weigh R, G and B of each pixel with their neighbours on one axis, `STEP` apart; `position` is its index there."""
    AREA: tl.constexpr = SIZE * SIZE
    mask = pixel < AREA
    start = planes + pixel - position * STEP
    weights = 1.0
    red = tl.load(planes + pixel, mask=mask, other=0.0).to(tl.float32)
    green = tl.load(planes + AREA + pixel, mask=mask, other=0.0).to(tl.float32)
    blue = tl.load(planes + 2 * AREA + pixel, mask=mask, other=0.0).to(tl.float32)
    # Beyond 6 sigma a weight is less than float32 resolves next to the sum.
    for distance in range(1, tl.minimum(reach, (6 * sigma).to(tl.int32) + 1) + 1):
        weight = tl.exp(-0.5 * (distance / sigma) * (distance / sigma))
        weights += 2 * weight
        # The image is mirrored at its outermost pixels.
        before = start + tl.abs(position - distance) * STEP
        after = start + tl.minimum(position + distance, 2 * SIZE - 2 - position - distance) * STEP
        red += weight * _load_pair(before, after, mask)
        green += weight * _load_pair(before + AREA, after + AREA, mask)
        blue += weight * _load_pair(before + 2 * AREA, after + 2 * AREA, mask)
    return red / weights, green / weights, blue / weights


@triton.jit
def _blur_rows(colored, draws, reach, half_blurred, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    AREA: tl.constexpr = SIZE * SIZE
    image, pixel = _tile(SIZE, BLOCK)
    sigma = tl.load(draws.sigma + image)
    if sigma > 0:
        rgb = _blur(colored + 3 * AREA * image, pixel, pixel % SIZE, 1, sigma, reach, SIZE)
        _store_rgb(rgb, half_blurred + 3 * AREA * image + pixel, AREA, pixel < AREA)


@triton.jit
def _blur_columns(half_blurred, draws, reach, target, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    AREA: tl.constexpr = SIZE * SIZE
    image, pixel = _tile(SIZE, BLOCK)
    sigma = tl.load(draws.sigma + image)
    if sigma > 0:
        rgb = _blur(half_blurred + 3 * AREA * image, pixel, pixel // SIZE, SIZE, sigma, reach, SIZE)
        _finish(rgb, draws, image, pixel, target, SIZE)
