"""Bands and samples of an image as its file declares them: what Pillow would drop on the way to 8-bit RGB.

Tags: TIFF 6.0, with SampleFormat of its section 19 and ExtraSamples of section 18. JPEG 2000: ITU-T T.800, annex A.5.1
(SIZ) and I.5.3.6 (channel definition).
"""

import io
import warnings
from typing import NamedTuple

from PIL import Image, TiffImagePlugin

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 277, 338, 339
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}
"""Bands by photometric interpretation: RGB, CMYK, YCbCr, L*a*b*; every other one has a single band."""
_ALPHA = (1, 2, 999)
"""Values of ExtraSamples that mean transparency; 999 is Corel Draw's."""
_FORMATS = {1: "unsigned", 2: "signed", 3: "float"}
_CODESTREAM = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream: SOC, then SIZ."""


class Bands(NamedTuple):
    """Layout of an image's samples."""

    bits: int = 8
    """Most bits of a sample."""
    kind: str = "unsigned"
    """`unsigned`, `signed`, `float`, or another number format of TIFF."""
    in_file: int = 0
    """Bands in the file, if more than Pillow's mode for the image has; 0 otherwise."""
    kept: int = 0
    """Bands of those that a colour image has; 0 unless `in_file` is given."""
    white_is_zero: bool = False
    """Whether the smallest sample is white, which Pillow heeds for up to 8 bits only."""

    @property
    def eight_bit(self) -> bool:
        """Whether a sample is an unsigned number of at most 8 bits, whose greatest value is white."""
        return self.bits <= 8 and self.kind == "unsigned"

    @property
    def depth(self) -> str:
        """The samples in words: `16 bits`, `32 bits, float`."""
        return f"{self.bits} bits" + (f", {self.kind}" if self.kind != "unsigned" else "")


def bands_of_tiff(encoded: bytes) -> Bands:
    """Read the tags of a TIFF's first image, also where Pillow has no mode for it; the default for another format.

    Raises nearly anything for damaged tags.
    """
    if encoded[:4] not in _TIFF_STARTS:
        return Bands()
    header = encoded[: 16 if b"+" in encoded[2:4] else 8]
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file = io.BytesIO(encoded)
    file.seek(tags.next)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of truncated tags, which Pillow's own reading of them refuses or not
        tags.load(file)
    photometric, samples = tags.get(_PHOTOMETRIC, 0), tags.get(_SAMPLES, 1)
    extra, colours = tags.get(_EXTRA, ()), _COLOURS.get(photometric, 1)
    layout = Bands(
        max(tags.get(_BITS, (1,))),
        _FORMATS.get(max(tags.get(_FORMAT, (1,))), "of no known number format"),
        white_is_zero=photometric == 0,
    )
    has_alpha = samples == colours + 1 and len(extra) == 1 and extra[0] in _ALPHA
    return layout if samples <= colours or has_alpha else layout._replace(in_file=samples, kept=colours)


def bands_of_image(image: Image.Image, encoded: bytes | None) -> Bands:
    """Return the layout of an opened image of any format but TIFF; without `encoded`, of any but JPEG 2000 as well."""
    raw_mode, *arguments = _arguments(image)
    if image.format == "PNG" and ";16" in raw_mode:
        return Bands(16)
    if image.format == "PPM" and image.mode != "F" and arguments and arguments[-1] > 255:
        return Bands(16)
    if image.format == "JPEG2000" and encoded is not None:
        return _bands_of_jpeg2000(encoded)
    if image.mode == "F":
        return Bands(32, "float")
    return Bands(16) if image.mode.startswith("I") else Bands()


def _bands_of_jpeg2000(encoded: bytes) -> Bands:
    start = encoded.find(_CODESTREAM)
    components = int.from_bytes(encoded[start + 40 : start + 42])
    precision = encoded[start + 42 : start + 42 + 3 * components : 3]
    layout = Bands(max(each & 0x7F for each in precision) + 1, "signed" if precision[0] & 0x80 else "unsigned")
    # Without a channel definition or a colour space of four inks, nothing says that a fourth band is transparency.
    boxes = encoded[:start]
    explained = components <= 3 or b"cdef" in boxes or b"colr\1\0\0\0\0\0\x0c" in boxes
    return layout if explained else layout._replace(in_file=components, kept=3)


def _arguments(image: Image.Image) -> tuple:
    """Return the decoder's arguments, of which the first is the layout of a pixel in the file: `RGB;16B`."""
    arguments = image.tile[0].args if getattr(image, "tile", None) else ""  # pyright: ignore[reportAttributeAccessIssue]
    return arguments if isinstance(arguments, tuple) and arguments else (arguments or "",)
