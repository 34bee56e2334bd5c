"""Images to test with, and their encoded bytes."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def encoded(image: Image.Image | npt.NDArray[Any], format: str = "JPEG", **options: Any) -> bytes:
    """Encode an image, or its pixels, as Pillow does with these options."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
    return stream.getvalue()


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random uint8 values of this shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def photograph(height: int, width: int, seed: int) -> Image.Image:
    """Coloured noise whose amplitude falls with frequency, as in photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")) + 1 / height
    waves = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    pixels = np.fft.irfft2(waves / frequency, s=(height, width)).transpose(1, 2, 0)
    return Image.fromarray((128 + 50 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))


def with_orientation(tag: int) -> Image.Exif:
    """EXIF data that ask for a turn (1 to 8)."""
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif
