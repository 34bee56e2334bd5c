"""A TIFF → the JPEGs in it, each a stream of its own: TIFF's decoder keeps to itself what JPEG's says of them.

Tags and layout: TIFF 6.0, and Adobe's TIFF Technical Note 2 on JPEG compression.
"""

from collections.abc import Iterator

from PIL.TiffImagePlugin import TiffImageFile

_STRIPS, _TILES = (273, 279), (324, 325)
"""Tags of the offsets and of the lengths in bytes."""
_TABLES = 347


class ObsoleteJpegInTiff(ValueError):
    """JPEG in the style of TIFF 6.0 itself, which the note declares obsolete."""


def jpegs_in_tiff(image: TiffImageFile, encoded: bytes) -> Iterator[bytes]:
    """Yield the JPEG of each strip or tile, with the tables that all of them share; nothing for another compression.

    Raises ObsoleteJpegInTiff where the JPEGs are of another style, and can't be looked at.
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
        # The tables end, and each strip begins, with a marker that a single stream has but once.
        yield tables[:-2] + encoded[offset + (2 if tables else 0) : offset + length]
