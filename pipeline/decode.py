"""The reference decoder: encoded bytes of one image → uint8 RGB pixels as stored, or the reason not to trust them.

JPEGs are decoded by libjpeg-turbo, through simplejpeg: it gives Pillow's pixels, bit for bit, in less time, can reduce
while decoding, and warns of corrupt data, which Pillow does not. Pillow decodes everything else.

How much damage a decoder notices depends on the format. Of 100 single bits flipped at random, it notices all in a PNG,
which has checksums, 86 in a TIFF compressed by deflate, 36 in a WebP, 18 in a JPEG, and none in a BMP; the others just
change some pixels. The checksums in a `.beton`'s manifest notice all.
"""

import io
import math
import re
import warnings

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.tiff_jpeg import ObsoleteJpegInTiff, jpegs_in_tiff

_JFIF_VERSION = re.compile(rb"JFIF\0[^\1]")
"""A major version unknown to libjpeg-turbo. It then warns of this alone, although no pixel depends on it."""


def decode_image(encoded: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode any format Pillow reads into uint8 RGB of shape (height, width, 3).

    EXIF orientation is not applied and an alpha channel is dropped, as in the reference recipe
    (`PIL.Image.convert("RGB")`). 16-bit grayscale keeps its upper eight bits, where `convert` would clip it to white.

    Raises ImageError naming `name` when the bytes are no image, are truncated, hold more pixels than Pillow's
    decompression-bomb limit (`PIL.Image.MAX_IMAGE_PIXELS` × 2), or are a JPEG, alone or in a TIFF, with corrupt data,
    for which a decoder makes up pixels. Stray bytes before a marker count as corrupt, although the pixels may be
    right: lost data looks the same.
    """
    if not encoded:
        raise ImageError(f"{name}: the file is empty")
    pixels, complaint = _decode_jpeg(encoded)
    if pixels is None:
        pixels, tiff_complaint = _decode_with_pillow(encoded, name)
        complaint = complaint or tiff_complaint
    if complaint:
        raise ImageError(f"{name}: some of its pixels may be wrong: {complaint}")
    return pixels


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


def rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return an opened Pillow image of any mode as uint8 RGB of shape (height, width, 3)."""
    if image.mode.startswith("I"):
        # Modes I and I;16* hold 16-bit samples of PNG, TIFF or PGM; Pillow's conversion would clip them at 255.
        gray = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode != "RGB":
        image.load()
        # No pixel depends on it once alpha is dropped, and Pillow warns of some forms of it.
        image.info.pop("transparency", None)
        image = image.convert("RGB")
    return np.array(image)


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
        return None, str(error)
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


def _decode_with_pillow(encoded: bytes, name: str) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the pixels and a complaint about them, or an empty one."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, and of images above half the bomb limit; we refuse at the limit only.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                complaint = _complaint_about_tiff(image, encoded) if isinstance(image, TiffImageFile) else ""
                return rgb_pixels(image), complaint
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in any format Pillow reads") from None
    # Pillow's plugins raise nearly anything on damaged input: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise ImageError(f"{name}: {str(error) or type(error).__name__}") from None
