"""Formats that images are read in, and the one way that Pillow is asked to open them.

These are the formats of still pictures whose pixels Pillow decodes by itself. Others that it knows are not read: icons
(ICO, ICNS, CUR) hold the same picture several times; PSD, EPS, WMF and PDF are documents, which need another program or
hold layers; FLI and MPEG are films; FITS, HDF5 and GRIB are measurements, whose scale Pillow ignores; DDS, BLP, FTEX
and PIXAR are textures; SGI, SUN, XBM and the like have endings that other files have (`.rgb`, `.bw`, `.ras`).
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from simsiam.pipeline.png import pixel_chunks

FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""Pillow's names of the formats that are read; it opens MPO, several JPEGs in a file, as JPEG."""


@contextmanager
def open_image(encoded: bytes | BinaryIO, formats: tuple[str, ...] = FORMATS) -> Iterator[Image.Image]:
    """Open an image with Pillow, by its bytes or as a file whose header is read; pixels are decoded on first use.

    `formats` may name fewer of them. Of the bytes of a PNG, only those that matter for its pixels are read, see
    `pixel_chunks`.

    Raises `PIL.UnidentifiedImageError` for another format, and nearly anything for damaged input.
    """
    file = io.BytesIO(pixel_chunks(encoded)) if isinstance(encoded, bytes) else encoded
    with warnings.catch_warnings():
        # Pillow warns of odd metadata, and of images above half the bomb limit; we refuse at the limit only.
        warnings.simplefilter("ignore")
        with Image.open(file, formats=formats) as image:
            yield image
