"""Encoded bytes of one image → uint8 RGB pixels, as stored, or why they can't be trusted: the reference decoder.

Two libraries take part. libjpeg-turbo, called by simplejpeg, decodes JPEGs: it gives the pixels that Pillow gives, bit
for bit, in less time, can reduce while decoding, and says when the compressed data makes no sense, which Pillow keeps
to itself. Pillow takes everything else.

What a decoder can notice depends on the format. Of 100 single bits flipped at random, all are noticed in a PNG, which
has checksums, 86 in a TIFF compressed by deflate, 36 in a WebP, 18 in a JPEG, and none in a BMP; elsewhere they are
other pixels that make as much sense. The checksums of a `.beton`'s manifest notice all.
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
"""A version that libjpeg-turbo doesn't know. It warns of it, and of nothing else then, but no pixel depends on it."""


def decode_image(encoded: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode any format Pillow reads into uint8 RGB of shape (height, width, 3).

    EXIF orientation is not applied and an alpha channel is dropped, as in the reference recipe
    (`PIL.Image.convert("RGB")`). 16-bit grayscale keeps its upper eight bits, where `convert` would clip it to white.

    Raises ImageError naming `name` when the bytes are no image, are cut short, hold more pixels than Pillow's
    decompression-bomb limit (`PIL.Image.MAX_IMAGE_PIXELS` × 2), or are a JPEG, alone or in a TIFF, with data that its
    standard doesn't allow: a decoder then makes up the pixels that it lacks. Stray bytes before a marker count as such,
    though the pixels may be right: lost data looks the same.
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
    """Decode a JPEG of one or three components, as it is or to an eighth, a quarter, three eighths or half of its size.

    Returns uint8 RGB of shape (at least `height`, at least `width`, 4), of which the last channel means nothing, in
    the smallest of these sizes. Reduced by the inverse DCT, which takes the mean over each block of pixels. None where
    libjpeg-turbo doesn't decode it without a warning: then `decode_image` says what is wrong.
    """
    try:
        return simplejpeg.decode_jpeg(encoded, "RGBX", min_height=height, min_width=width, min_factor=2, strict=True)
    except ValueError:
        return None


def is_too_large(height: int, width: int) -> bool:
    """Tell whether Pillow would refuse that many pixels as a decompression bomb, and this decoder with it."""
    return height * width > most_pixels()


def most_pixels() -> float:
    """Return how many pixels an image may have without being refused as a decompression bomb."""
    return math.inf if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def rgb_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return an opened Pillow image of any mode as uint8 RGB of shape (height, width, 3)."""
    if image.mode.startswith("I"):
        # Modes I and I;16* hold 16-bit samples of PNG, TIFF or PGM; Pillow's own conversion clips at 255.
        gray = (np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.mode != "RGB":
        image.load()
        # No pixel depends on it once alpha is dropped, and Pillow warns about some forms of it.
        image.info.pop("transparency", None)
        image = image.convert("RGB")
    return np.array(image)


def _decode_jpeg(encoded: bytes) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Return the pixels of a JPEG and what the decoder says against them; no pixels where it is Pillow's turn.

    Pillow has its turn even where there is a complaint: its reason, where it refuses the image, is the clearer one.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded, strict=False)
    except (ValueError, KeyError):  # which it is depends on how little can be told
        return None, ""  # no JPEG, or of a kind that TurboJPEG doesn't know
    if is_too_large(height, width):
        return None, ""
    # How CMYK becomes RGB is Pillow's own; here it is only looked through.
    rgb = colours not in ("CMYK", "YCCK")
    try:
        pixels = simplejpeg.decode_jpeg(encoded, "RGB" if rgb else "CMYK", strict=True)
    except ValueError as error:
        if "JFIF revision" in str(error) and (found := _JFIF_VERSION.search(encoded)):
            return _decode_jpeg(encoded[: found.end() - 1] + b"\1" + encoded[found.end() :])
        return None, str(error)
    return (pixels if rgb else None), ""


def _complaint_about_tiff(image: TiffImageFile, encoded: bytes) -> str:
    """Return what the JPEG decoder says against the JPEGs in a TIFF, which TIFF's decoder keeps to itself."""
    try:
        for jpeg in jpegs_in_tiff(image, encoded):
            pixels, complaint = _decode_jpeg(jpeg)
            if pixels is None and complaint:
                return complaint
    except ObsoleteJpegInTiff as error:
        return str(error)
    return ""


def _decode_with_pillow(encoded: bytes, name: str) -> tuple[npt.NDArray[np.uint8], str]:
    """Return the pixels and what there is to say against them."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, and from half the bomb limit on, where we decide at the limit itself.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(encoded)) as image:
                complaint = _complaint_about_tiff(image, encoded) if isinstance(image, TiffImageFile) else ""
                return rgb_pixels(image), complaint
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in any format Pillow reads") from None
    # Pillow's format plugins raise nearly anything on damaged input: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise ImageError(f"{name}: {str(error) or type(error).__name__}") from None
