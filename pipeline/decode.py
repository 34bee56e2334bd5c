"""The reference decoder: encoded bytes of one image → uint8 RGB pixels as stored, or the reason not to trust them.

JPEGs are decoded by libjpeg-turbo, through simplejpeg: it gives Pillow's pixels, bit for bit, in less time, can reduce
while decoding, and warns of corrupt data, which Pillow does not. Pillow decodes everything else, in the formats of
`image_formats`. Nothing else judges pixels: the scan of a folder, conversion, verification and all loaders ask this
decoder, or one that leaves to it whatever it doubts.

How much damage a decoder notices depends on the format. Of 100 single bits flipped at random, it notices all in a PNG,
which has checksums, 86 in a TIFF compressed by deflate, 36 in a WebP, 18 in a JPEG, and none in a BMP; the others just
change some pixels. The checksums in a `.beton`'s manifest notice all.
"""

import math
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from simsiam.pipeline.bands import Bands, bands_of_image, bands_of_tiff
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.image_formats import open_image
from simsiam.pipeline.intensity import ADVICE, Intensity, read_samples, scale
from simsiam.pipeline.jpeg import read_jpeg_header, without_metadata
from simsiam.pipeline.tiff_jpeg import ObsoleteJpegInTiff, jpegs_in_tiff

_JFIF_VERSION = re.compile(rb"JFIF\0[^\1]")
"""A major version unknown to libjpeg-turbo. It then warns of this alone, although no pixel depends on it."""


class Decoded(NamedTuple):
    """Pixels, and what was done to get them from samples of more than 8 bits."""

    pixels: npt.NDArray[np.uint8]
    """uint8 RGB (height, width, 3)."""
    scaled: bool = False
    """Whether the samples were scaled to 8 bits by the given intensity."""
    clipped: bool = False
    """Whether samples outside of the intensity were clipped."""


def decode_image(encoded: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode any format of `image_formats.FORMATS` into uint8 RGB of shape (height, width, 3).

    EXIF orientation is not applied and an alpha channel is dropped, as in the reference recipe
    (`PIL.Image.convert("RGB")`). Samples of fewer than 8 bits are spread to 0 … 255.

    Raises ImageError naming `name` when the bytes are no image, are truncated, hold more pixels than Pillow's
    decompression-bomb limit (`PIL.Image.MAX_IMAGE_PIXELS` × 2), or are a JPEG, alone or in a TIFF, with corrupt data,
    for which a decoder makes up pixels. Stray bytes before a marker count as corrupt, although the pixels may be
    right: lost data looks the same. A JPEG without its end marker is corrupt as well. What isn't 8-bit RGB and can't
    become it without loss is refused too: samples of more than 8 bits or of signed or floating-point numbers, 16-bit
    colours included, of which Pillow would drop the low byte (`decode_deep` takes them), and bands other than colours
    and one alpha channel. AVIF alone is read at 10 and 12 bits: its white is the greatest value, by its definition.
    """
    return decode_deep(encoded, name, None).pixels


def decode_deep(encoded: bytes, name: str, intensity: Intensity | None) -> Decoded:
    """Decode as `decode_image` does, but scale samples of more than 8 bits by `intensity`, if that is given.

    `intensity` is the two values that become 0 and 255, the same ones for the whole set; 8-bit images are left as they
    are. Of 16-bit colours, all 16 bits count.

    Raises ImageError as `decode_image` does, also for deep samples that Pillow can't give whole.
    """
    if not encoded:
        raise ImageError(f"{name}: the file is empty")
    pixels, complaint = _decode_jpeg(encoded)
    decoded = Decoded(pixels) if pixels is not None else None
    if decoded is None:
        decoded, tiff_complaint = _decode_with_pillow(encoded, name, intensity)
        complaint = complaint or tiff_complaint
    if complaint:
        raise ImageError(f"{name}: some of its pixels may be wrong: {complaint}")
    return decoded


def decode_reduced(encoded: bytes, height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG of one or three components at 1/8, 1/4, 3/8, 1/2 or all of its size, the smallest that suffices.

    Returns uint8 RGBX of shape (≥ height, ≥ width, 4), whose last channel is meaningless. The inverse DCT reduces, by
    the mean over each block of pixels. Returns None if libjpeg-turbo fails or warns: then `decode_image` says why.
    """
    try:
        return simplejpeg.decode_jpeg(encoded, "RGBX", min_height=height, min_width=width, min_factor=2, strict=True)
    except ValueError:
        return None


def is_too_large(height: int, width: int) -> bool:
    """Return whether Pillow, and so this decoder, refuses that many pixels as a decompression bomb."""
    return height * width > most_pixels()


def most_pixels() -> float:
    """Return the number of pixels above which an image is refused as a decompression bomb."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def header_suffices(image: Image.Image) -> bool:
    """Return whether the header of a PNG, JPEG or GIF gives no reason to refuse it: its samples have 8 bits."""
    return bands_of_image(image, None).eight_bit


def _decode_jpeg(encoded: bytes) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Return (pixels, complaint); `pixels` is None if Pillow should decode instead.

    That is so even after a complaint: if Pillow refuses the image as well, its message is clearer.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError):  # depending on what it makes of the header
        return None, ""  # no JPEG, or of a kind unknown to TurboJPEG
    if is_too_large(int(height), int(width)):
        return None, ""
    # Pillow has its own conversion from CMYK to RGB, so CMYK is decoded here for the sake of warnings alone.
    rgb = colours not in ("CMYK", "YCCK")
    try:
        pixels = simplejpeg.decode_jpeg(encoded, "RGB" if rgb else "CMYK", strict=True)
    except ValueError as error:
        if "JFIF revision" in str(error) and (found := _JFIF_VERSION.search(encoded)):
            return _decode_jpeg(encoded[: found.end() - 1] + b"\1" + encoded[found.end() :])
        # It warns of damaged colour profiles as well.
        bare = without_metadata(encoded)
        return _decode_jpeg(bare) if len(bare) < len(encoded) else (None, str(error))
    return (pixels if rgb else None), ""


def _complaint_about_tiff(image: TiffImageFile, encoded: bytes) -> str:
    """Return the JPEG decoder's complaint about the JPEGs in a TIFF, which the TIFF decoder would not pass on."""
    try:
        for jpeg in jpegs_in_tiff(image, encoded):
            pixels, complaint = _decode_jpeg(jpeg)
            if pixels is None and complaint:
                return complaint
    except ObsoleteJpegInTiff as error:
        return str(error)
    return ""


def _decode_with_pillow(encoded: bytes, name: str, intensity: Intensity | None) -> tuple[Decoded, str]:
    """Return the pixels and a complaint about them, or an empty one."""
    try:
        bands = bands_of_tiff(encoded)
        if bands.in_file > TiffImagePlugin.MAX_SAMPLESPERPIXEL:  # Pillow refuses it, and logs a line without a name
            raise ImageError(_unidentified(encoded, bands))
        try:
            with open_image(encoded) as image:
                if isinstance(image, TiffImageFile):
                    complaint = _complaint_about_tiff(image, encoded)
                else:
                    complaint, bands = "", bands_of_image(image, encoded)
                return _rgb_pixels(image, encoded, bands, intensity), complaint
        except Image.UnidentifiedImageError:
            raise ImageError(_unidentified(encoded, bands)) from None
    # Pillow's plugins raise nearly anything on damaged input: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise ImageError(f"{name}: {str(error) or type(error).__name__}") from None


def _rgb_pixels(image: Image.Image, encoded: bytes, bands: Bands, intensity: Intensity | None) -> Decoded:
    """Return the pixels of an opened image; raises ImageError, without its name, for what isn't 8-bit RGB."""
    mode = image.mode
    if bands.in_file:
        values = _range(np.asarray(image))
        raise ImageError(
            f"it has {bands.in_file} bands of {bands.depth}, but Pillow's mode {mode} gives {bands.kept} of them as"
            f" colours ({values}); store the bands to train on as an image of one or three"
        )
    if bands.eight_bit:
        return Decoded(_as_rgb(image))
    samples = read_samples(image, encoded, bands)
    if samples is None:
        raise ImageError(
            f"its samples aren't 8-bit: {bands.depth}, of which Pillow's mode {mode} keeps the upper 8"
            f" ({_range(np.asarray(image))} of those); store 8 bits a sample"
        )
    if intensity is None:
        raise ImageError(f"its samples aren't 8-bit: {bands.depth}, Pillow's mode {mode}, {_range(samples)}; {ADVICE}")
    pixels, clipped = scale(samples, intensity)
    if bands.white_is_zero:
        pixels = 255 - pixels
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    elif mode == "CMYK":
        pixels = _as_rgb(Image.fromarray(pixels, "CMYK"))
    return Decoded(np.ascontiguousarray(pixels[:, :, :3]), scaled=True, clipped=clipped)


def _as_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode != "RGB":
        image.load()
        # No pixel depends on it once alpha is dropped, and Pillow warns of some forms of it.
        image.info.pop("transparency", None)
        try:
            image = image.convert("RGB")
        except ValueError:
            raise ImageError(f"Pillow can't convert its mode {image.mode} to RGB; store it as RGB") from None
    return np.array(image)


def _range(samples: npt.NDArray[np.generic]) -> str:
    numbers = samples[np.isfinite(samples)]
    return f"values {numbers.min():.6g} to {numbers.max():.6g}" if numbers.size else "no finite value"


def _unidentified(encoded: bytes, bands: Bands) -> str:
    """Return why Pillow doesn't open an image, where the header says so."""
    if bands.in_file or not bands.eight_bit:
        count = f"{bands.in_file} bands of " if bands.in_file else ""
        return f"a TIFF with {count}{bands.depth} a sample, for which Pillow has no mode; store 8-bit RGB"
    jpeg = read_jpeg_header(encoded)
    if jpeg is not None and jpeg.precision != 8:
        return f"a JPEG with {jpeg.precision} bits a sample, which Pillow has no mode for; store 8 bits"
    return "not an image in any format Pillow reads"
