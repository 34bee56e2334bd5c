"""Transcoding: encoded bytes of one image → the JPEG stored in a `.beton`, copied if possible, otherwise encoded."""

import contextlib
import io
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from simsiam.pipeline.decode import decode_deep, decode_image, decode_reduced, is_too_large
from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.image_formats import open_image
from simsiam.pipeline.intensity import Intensity, check_intensity
from simsiam.pipeline.jpeg import UsualJpeg, read_usual_jpeg
from simsiam.pipeline.one_colour import ONE_COLOUR, is_one_colour, may_be_one_colour
from simsiam.pipeline.png import pixel_chunks

Check = Literal["markers", "full"]

SCALED = "scaled to 8 bits by the range of intensity"
CLIPPED = "has values outside of the range of intensity, which were clipped"

_ORIENTATION_TAG = 0x0112  # EXIF 2.32, table 4
# What undoes each value of the tag, EXIF 2.32, 4.6.4 A.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Transcoding:
    """How images become JPEGs; the longest side and the quality are those of FFCV's ImageNet script for ResNet-50.

    Raises UsageError for a bad value.
    """

    max_side: int | None = 500
    """Reduce images whose longer side is above this many pixels; None keeps every size."""
    quality: int = 90
    """JPEG quality of what is encoded, 1 to 100."""
    apply_orientation: bool = False
    """Rotate images as their EXIF data says; by default pixels are kept as stored."""
    reencode: bool = False
    """Encode every image; by default a usual baseline JPEG that needs no change is copied."""
    check: Check = "markers"
    """How copied JPEGs are checked: by their markers, or by decoding them (`full`), which takes longer."""
    intensity: Intensity | None = None
    """The two values that become 0 and 255 in images of more than 8 bits a sample: 0,4095 for 12 bits, 0,1 for floats.
    One range for the whole set; values outside of it are clipped, and counted. Without it such images are skipped, with
    the range of their values. 8-bit images stay as they are."""

    def __post_init__(self) -> None:
        check_intensity(self.intensity)
        if self.max_side is not None and self.max_side < 1:
            raise UsageError(f"The longest side {self.max_side} must be at least 1 pixel, or None for no limit.")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"The JPEG quality {self.quality} must lie between 1 and 100.")


class Encoded(NamedTuple):
    """A JPEG and its size in pixels."""

    jpeg: bytes
    height: int
    width: int
    copied: bool = False
    """Whether these are the original bytes."""
    remarks: tuple[str, ...] = ()
    """`ONE_COLOUR`, `SCALED`, `CLIPPED`: what is to be known of the image, though it isn't broken."""


def transcode(encoded: bytes, name: str, how: Transcoding) -> Encoded:
    """Return the JPEG of one image in any format that Pillow reads.

    A baseline JPEG of three 8-bit YCbCr components in a usual sampling, which fits `max_side` and need not be rotated,
    is copied up to its end marker, metadata included. A progressive one is encoded: decoding it would take 2.5 times
    as long in every epoch, and no GPU's JPEG engine accepts it. Encoded JPEGs have 4:2:0 chroma, like those of FFCV's
    writer, and no metadata.

    Raises ImageError naming `name` when the image can't be decoded, or has more than 8 bits a sample and `how` no
    intensity.
    """
    jpeg = read_usual_jpeg(encoded)
    turn = _TURNS.get(_orientation(encoded)) if how.apply_orientation else None
    if jpeg is None or is_too_large(jpeg.height, jpeg.width):
        return _encode_decoded(encoded, name, how, turn)
    height, width = _reduced(jpeg.height, jpeg.width, how.max_side)
    unchanged = turn is None and (height, width) == (jpeg.height, jpeg.width)
    if unchanged and jpeg.whole_baseline and not how.reencode:
        # Bytes behind the end marker are mostly a camera's, but may be the rest of a scan that a stray marker cuts off.
        remarks = ()
        if how.check == "full" or jpeg.length < len(encoded) or _may_be_one_colour(jpeg):
            remarks = _remarks(is_one_colour(decode_image(encoded, name)))
        return Encoded(encoded[: jpeg.length], height, width, True, remarks)
    pixels = decode_reduced(encoded, height, width)
    if pixels is None:
        return _encode_decoded(encoded, name, how, turn)
    # Pillow uses four bytes per pixel in place; three it would copy.
    image = Image.frombuffer("RGBX", pixels.shape[1::-1], pixels, "raw", "RGBX", 0, 1)
    remarks = _remarks(is_one_colour(pixels[:, :, :3]))
    return _encode(image, height, width, how.quality, turn)._replace(remarks=remarks)


def encode_pixels(pixels: npt.NDArray[np.uint8], how: Transcoding, turn: Image.Transpose | None = None) -> Encoded:
    """Return the JPEG of uint8 RGB pixels (height, width, 3), reduced to `max_side`, then turned."""
    height, width = _reduced(pixels.shape[0], pixels.shape[1], how.max_side)
    encoded = _encode(Image.fromarray(pixels), height, width, how.quality, turn)
    return encoded._replace(remarks=_remarks(is_one_colour(pixels)))


def _encode_decoded(encoded: bytes, name: str, how: Transcoding, turn: Image.Transpose | None) -> Encoded:
    pixels, scaled, clipped = decode_deep(encoded, name, how.intensity)
    result = encode_pixels(pixels, how, turn)
    return result._replace(remarks=(*result.remarks, *[SCALED] * scaled, *[CLIPPED] * clipped))


def _remarks(one_colour: bool) -> tuple[str, ...]:
    return (ONE_COLOUR,) if one_colour else ()


def _may_be_one_colour(jpeg: UsualJpeg) -> bool:
    return may_be_one_colour(jpeg.length - jpeg.scan_start, jpeg.height, jpeg.width)


def _reduced(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    longest = max(height, width)
    if max_side is None or longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def _encode(image: Image.Image, height: int, width: int, quality: int, turn: Image.Transpose | None) -> Encoded:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    if turn is not None:
        image = image.transpose(turn)
    file = io.BytesIO()
    try:
        image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    except OSError as error:  # a side longer than a JPEG can have
        raise ImageError(f"can't be encoded: {error}") from None
    return Encoded(file.getvalue(), image.height, image.width)


def _orientation(encoded: bytes) -> int:
    # Pillow also finds it in text, but may refuse to open an image because of its text.
    for read in (lambda: io.BytesIO(encoded), lambda: pixel_chunks(encoded)):
        # It raises nearly anything on damaged input; without a legible tag there is nothing to turn.
        with contextlib.suppress(Exception), open_image(read()) as image:
            return image.getexif().get(_ORIENTATION_TAG, 1)
    return 1
