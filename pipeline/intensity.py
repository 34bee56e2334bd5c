"""Intensity: samples of more than 8 bits → 8 bits, by a range that the user gives for a whole set, never by a guess.

12-bit samples in 16 bits would come out nearly black if their low byte was dropped, floats of 0 to 1 black, and no file
says which value is white. So without a range such an image is refused, whatever its values are.
"""

import math
import sys

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile

from simsiam.pipeline.bands import Bands
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.image_formats import open_image

Intensity = tuple[float, float]
"""The values that become 0 and 255."""

ADVICE = "convert the set with the range of intensity that becomes 0 to 255, or store 8 bits a sample"
"""What helps if samples have more than 8 bits; part of the reason why an image is refused."""

# The same 16 bits in the other order of bytes: Pillow keeps one byte of a colour, so the other one is read this way.
_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}


def check_intensity(intensity: Intensity | None) -> None:
    """Raise UsageError unless `intensity` is None or two finite numbers, the smaller one first."""
    if intensity is None:
        return
    low, high = intensity
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(
            f"The intensity {low:g} to {high:g} is no range; give the smaller of two finite numbers first."
        )


def scale(samples: npt.NDArray[np.generic], intensity: Intensity) -> tuple[npt.NDArray[np.uint8], bool]:
    """Return round(255 · (sample - low) / (high - low)) as uint8, and whether samples outside the range were clipped.

    A sample that is no number counts as `low`, and as clipped.
    """
    low, high = intensity
    values = samples.astype(np.float64)
    inside = (values >= low) & (values <= high)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low).clip(low, high)
    return np.floor((values - low) * 255 / (high - low) + 0.5).astype(np.uint8), not inside.all()


def read_samples(image: Image.Image, encoded: bytes, bands: Bands) -> npt.NDArray[np.generic] | None:
    """Return the samples of an opened image as its file holds them, (height, width) or (height, width, bands).

    None if Pillow can't give them: it keeps the upper 8 bits of most colour images only.
    """
    arguments = image.tile[0].args if isinstance(image, ImageFile) and image.tile else ()
    if image.mode.startswith("I") or image.mode == "F":
        samples = np.asarray(image)
        if bands.bits == 32 and bands.kind == "unsigned":
            return samples.view(np.uint32)  # Pillow's mode I is signed
        if image.format == "PPM" and isinstance(arguments, tuple) and len(arguments) == 2:
            return np.rint(samples * (arguments[1] / 65535))  # Pillow has spread 0 to the file's maximum
        return samples
    if image.mode == "L" and bands.kind == "signed":
        return np.asarray(image).view(np.int8)
    return _read_colours_of_16_bits(image, encoded)


def _read_colours_of_16_bits(image: Image.Image, encoded: bytes) -> npt.NDArray[np.generic] | None:
    raw_mode = _raw_mode(image)
    layout, order = raw_mode[:-4], raw_mode[-4:]
    if layout == "LA":  # two samples of two bytes are read as four of one
        with open_image(encoded) as again:
            _set_raw_mode(again, "RGBA")
            four = np.asarray(again).astype(np.uint16)
        return np.repeat((four[:, :, :1] << 8) | four[:, :, 1:2], 3, axis=2)
    # Premultiplied colours (RGBa) are divided by their alpha on the way.
    if order not in _OTHER_ORDER or layout not in ("RGB", "RGBA", "CMYK"):
        return None
    with open_image(encoded) as again:
        _set_raw_mode(again, layout + _OTHER_ORDER[order])
        lower = np.asarray(again).astype(np.uint16)
    return np.asarray(image).astype(np.uint16) << 8 | lower


def _raw_mode(image: Image.Image) -> str:
    if not isinstance(image, ImageFile) or not image.tile:
        return ""
    arguments = image.tile[0].args
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw_mode if isinstance(raw_mode, str) else ""


def _set_raw_mode(image: Image.Image, raw_mode: str) -> None:
    assert isinstance(image, ImageFile)
    tiles = []
    for tile in image.tile:
        changed = (raw_mode, *tile.args[1:]) if isinstance(tile.args, tuple) else raw_mode
        tiles.append(tile._replace(args=changed))
    image.tile = tiles
