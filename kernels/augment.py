"""Photometric augmentation: uint8 crops and their draws in, normalised views out, view-major and channels-last."""

from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from simsiam.kernels.augment_contract import BRIGHTNESS, CONTRAST, HUE, SATURATION, PhotometricDraws, empty_views

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's R, G and B in [0, 1], as torchvision's models take them."""

# Measured: from 2 images of 224 px to 128 of 32 px at a time are quickest, about 1 MiB of float32 RGB.
_CACHED_PIXELS = 2 * 224**2


class _Draws(Protocol):
    """Anything with the fields of `PhotometricDraws`, which a loader's `crops.draws` have among others."""

    # Properties, since the fields of a named tuple can't be assigned.
    @property
    def flip(self) -> Tensor: ...
    @property
    def jitter(self) -> Tensor: ...
    @property
    def order(self) -> Tensor: ...
    @property
    def gray(self) -> Tensor: ...
    @property
    def sigma(self) -> Tensor: ...
    @property
    def solarize(self) -> Tensor: ...


def augment_views(
    pixels: Tensor,
    draws: _Draws,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: torch.dtype = torch.float32,
    blur_kernel: int = 23,
    implementation: Literal["auto", "reference"] = "auto",
) -> Tensor:
    """Apply each view's own drawn augmentation: colour jitter, grayscale, blur, solarize, flip, normalise, cast.

    The order of the operations is that of MoCo v2 and SimSiam (arXiv 2011.10566, App. A), with solarize where
    BYOL has it (arXiv 2006.07733, App. B). Each is defined as torchvision's tensor functional on float images in
    [0, 1], and computed in float32 whatever `dtype` or autocast say; only the normalised result is cast.

    It is the custom operator `simsiam::augment_views`, one node in a graph of torch.compile, without gradient.

    Args:
        pixels: Crops, uint8 (n, views, size, size, 3).
        draws: What to apply to each view: `PhotometricDraws`, whose fields say shapes and types, or anything with the
            same fields, such as `crops.draws` of a loader.
        mean: Subtracted from R, G and B in [0, 1]; by default ImageNet's.
        std: R, G and B are divided by it afterwards; by default ImageNet's.
        dtype: Of the result.
        blur_kernel: Width of the Gaussian in pixels, odd: 23 is about a tenth of 224 (SimCLR, arXiv
            2002.05709, App. A). Beyond its edges the image is mirrored (`reflect` padding), which reaches `size`
            − 1 pixels out, so an image of fewer than 12 pixels is blurred with 2·`size` − 1.
        implementation: `auto`: compiled for the device, within 1/255 of the reference (before mean and std);
            `reference`: the definition in plain PyTorch, which `auto` takes on devices other than CPU and CUDA.

    Returns:
        Views of `dtype`, (views·n, 3, size, size) in `torch.channels_last`: all first views, then all second
        views.

    Raises:
        ValueError: A tensor has another shape, dtype or device, or a setting is out of range.
    """
    photometric = PhotometricDraws(*(getattr(draws, name) for name in PhotometricDraws._fields))
    _check_tensors(pixels, photometric)
    if len(mean) != 3 or len(std) != 3 or not all(0 <= m <= 1 and 0 < s <= 1 for m, s in zip(mean, std, strict=True)):
        raise ValueError(
            f"mean is {mean} and std {std}; give three numbers each, of an image in [0, 1]: from 0 to 1, std above 0."
        )
    if not dtype.is_floating_point:
        raise ValueError(f"dtype is {dtype}; give a floating point type such as torch.bfloat16.")
    if blur_kernel < 1 or blur_kernel % 2 == 0:
        raise ValueError(f"blur_kernel is {blur_kernel}; give an odd number of pixels.")
    if implementation not in ("auto", "reference"):
        raise ValueError(f"implementation is {implementation}; give auto or reference.")
    return _augment_views(pixels, photometric, mean, std, dtype, blur_kernel, implementation)


@torch.library.custom_op("simsiam::augment_views", mutates_args=())
def _augment_views(
    pixels: Tensor,
    draws: Sequence[Tensor],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    blur_kernel: int,
    implementation: str,
) -> Tensor:
    # Imported here, since each is slow to import and only one is needed.
    if implementation == "auto" and pixels.device.type == "cpu":
        from simsiam.kernels.augment_cpu import augment_views_cpu as augment
    elif implementation == "auto" and pixels.device.type == "cuda":
        from simsiam.kernels.augment_triton import augment_views_triton as augment
    else:
        augment = augment_views_reference
    return augment(pixels, PhotometricDraws(*draws), mean=mean, std=std, dtype=dtype, blur_kernel=blur_kernel)


@_augment_views.register_fake
def _(pixels, draws, mean, std, dtype, blur_kernel, implementation) -> Tensor:
    return empty_views(pixels, dtype)


@torch.no_grad()
def augment_views_reference(
    pixels: Tensor,
    draws: PhotometricDraws[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    blur_kernel: int,
) -> Tensor:
    """Return `augment_views` by its definition, in plain PyTorch; the arguments are taken as checked.

    Each operation runs on the images it concerns alone. Finding them waits for a CUDA device.
    """
    count, views, size = pixels.shape[:3]
    # Planar during the computation: most operations combine a pixel's channels, and whole planes vectorise.
    images = torch.empty((views, count, 3, size, size), dtype=torch.float32, device=pixels.device)
    images.copy_(pixels.permute(1, 0, 4, 2, 3)).div_(255)
    images = images.flatten(0, 1)
    draws = PhotometricDraws(*(draw.transpose(0, 1).flatten(0, 1) for draw in draws))

    _jitter(images, draws.jitter, draws.order)
    for rows in _rows(draws.gray, size):
        images[rows] = _luma(images[rows]).expand(-1, 3, -1, -1)
    for rows in _rows(draws.sigma > 0, size):
        images[rows] = _gaussian_blur(images[rows], draws.sigma[rows], blur_kernel)
    for rows in _rows(draws.solarize, size):
        images[rows] = _solarize(images[rows])
    for rows in _rows(draws.flip, size):
        images[rows] = images[rows].flip(-1)

    images.sub_(images.new_tensor(mean).view(3, 1, 1)).div_(images.new_tensor(std).view(3, 1, 1))
    return empty_views(pixels, dtype).copy_(images)


def _check_tensors(pixels: Tensor, draws: PhotometricDraws[Tensor]) -> None:
    if pixels.dtype != torch.uint8 or pixels.ndim != 5 or pixels.shape[4] != 3 or pixels.shape[2] != pixels.shape[3]:
        raise ValueError(
            f"pixels is {pixels.dtype} {tuple(pixels.shape)}; give uint8 crops of shape (n, views, size, size, 3)."
        )
    leading = tuple(pixels.shape[:2])
    expected = PhotometricDraws(
        flip=(torch.bool, leading),
        jitter=(torch.float32, (*leading, 4)),
        order=(torch.uint8, (*leading, 4)),
        gray=(torch.bool, leading),
        sigma=(torch.float32, leading),
        solarize=(torch.bool, leading),
    )
    for name, draw, (dtype, shape) in zip(draws._fields, draws, expected, strict=True):
        if draw.dtype != dtype or tuple(draw.shape) != shape:
            raise ValueError(
                f"{name} is {draw.dtype} {tuple(draw.shape)}; for pixels of shape {tuple(pixels.shape)} "
                f"give {dtype} {shape}."
            )
        if draw.device != pixels.device:
            raise ValueError(f"{name} is on {draw.device} and pixels on {pixels.device}; put both on one device.")


def _rows(chosen: Tensor, size: int) -> Sequence[Tensor]:
    """Return the indices where `chosen` (n,) holds; on a CPU in chunks of images that fit its cache."""
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == 0:
        return ()
    return rows.split(max(1, _CACHED_PIXELS // size**2)) if rows.device.type == "cpu" else (rows,)


def _jitter(images: Tensor, jitter: Tensor, order: Tensor) -> None:
    for turn in range(4):
        for code, adjust, neutral in (
            (BRIGHTNESS, _brightness, 1.0),
            (CONTRAST, _contrast, 1.0),
            (SATURATION, _saturation, 1.0),
            (HUE, _hue, 0.0),
        ):
            amount = jitter[:, code]
            for rows in _rows((order[:, turn] == code) & (amount != neutral), images.shape[-1]):
                images[rows] = adjust(images[rows], amount[rows].view(-1, 1, 1, 1))


def _luma(images: Tensor) -> Tensor:
    """Return 0.2989 R + 0.587 G + 0.114 B, (n, 1, size, size): ITU-R BT.601, as torchvision rounds it."""
    red, green, blue = images.split(1, dim=1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return images.mul_(factor).clamp_(0, 1)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    pivot = _luma(images).mean(dim=(1, 2, 3), keepdim=True)
    return images.mul_(factor).add_(pivot * (1 - factor)).clamp_(0, 1)


def _saturation(images: Tensor, factor: Tensor) -> Tensor:
    gray = _luma(images).mul_(1 - factor)
    return images.mul_(factor).add_(gray).clamp_(0, 1)


def _hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` turns at the same HSV saturation and value (Smith 1978, hexcone model)."""
    red, green, blue = images.split(1, dim=1)
    low, value = torch.aminmax(images, dim=1, keepdim=True)
    chroma = value - low
    # Sixths of a turn, counted from red. Gray has none: there both differences and chroma are 0.
    sixths = torch.where(red == value, green - blue, torch.where(green == value, blue - red, red - green)).div_(
        chroma.clamp_min(torch.finfo(torch.float32).tiny)
    )
    sixths.add_(torch.where(red == value, 0.0, torch.where(green == value, 2.0, 4.0))).add_(6 * shift)
    # A channel equals `value` within one sixth of a turn of its own hue (red 0, green 2, blue 4), is `chroma` less from
    # two sixths on, and falls linearly in between.
    starts = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    sixths = (sixths + starts).remainder_(6)
    fall = torch.minimum(sixths, 4 - sixths).clamp_(0, 1)
    return torch.addcmul(value, fall, chroma, value=-1)


def _gaussian_blur(images: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Blur (n, 3, size, size) by a Gaussian of `kernel`² taps, each image with its own `sigma` (n,)."""
    reach = min(kernel // 2, images.shape[-1] - 1)
    distance = torch.arange(-reach, reach + 1, device=images.device)
    weights = torch.softmax(-0.5 * (distance / sigma[:, None]).square(), dim=1)[:, reach:]
    padded = nn.functional.pad(images, [reach] * 4, mode="reflect")
    return _weigh_neighbours(_weigh_neighbours(padded, weights, dim=3), weights, dim=2)


def _weigh_neighbours(padded: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Sum each pixel and its neighbours along `dim`; those at distance 0, 1, … weigh column 0, 1, … of `weights`.

    A convolution or a matrix product would compute the same, but in lower precision where TF32 or autocast is on.
    """
    reach = weights.shape[1] - 1
    size = padded.shape[dim] - 2 * reach
    centre, *others = weights.view(len(weights), -1, 1, 1, 1).unbind(dim=1)
    total = padded.narrow(dim, reach, size) * centre
    for distance, weight in enumerate(others, start=1):
        pair = padded.narrow(dim, reach - distance, size) + padded.narrow(dim, reach + distance, size)
        total.addcmul_(pair, weight)
    return total


def _solarize(images: Tensor) -> Tensor:
    return torch.where(images >= 0.5, 1 - images, images)
