"""JPEGs in a TIFF, as streams of their own, to be checked: the TIFF decoder swallows the JPEG decoder's warnings.

Tags and layout: TIFF 6.0, and Adobe's TIFF Technical Note 2 on JPEG compression.
"""

from collections.abc import Iterator

from PIL.TiffImagePlugin import TiffImageFile

_STRIPS, _TILES = (273, 279), (324, 325)
"""Tags of the offsets and of the lengths in bytes."""
_TABLES = 347


class ObsoleteJpegInTiff(ValueError):
    """JPEG compression in the style of TIFF 6.0 itself, which the technical note declares obsolete."""


def jpegs_in_tiff(image: TiffImageFile, encoded: bytes) -> Iterator[bytes]:
    """Yield the JPEG of each strip or tile, with the tables they share; nothing if the compression is another one.

    Raises ObsoleteJpegInTiff if the JPEGs are in the obsolete style, which isn't read here.
    """
    compression = image.info.get("compression")
    if compression == "tiff_jpeg":
        raise ObsoleteJpegInTiff("JPEG in a TIFF of the obsolete style can't be checked")
    if compression != "jpeg":
        return
    tags = image.tag_v2
    tables = tags.get(_TABLES, b"")
    offsets, lengths = _TILES if _TILES[0] in tags else _STRIPS
    for offset, length in zip(tags[offsets], tags[lengths], strict=True):
        # The tables have an end marker and each strip a start marker, which one stream must not have in its middle.
        yield tables[:-2] + encoded[offset + (2 if tables else 0) : offset + length]
