"""Images of one colour, all of whose pixels are equal: what is left of samples squeezed into 8 bits by a wrong rule."""

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.source import Source

ONE_COLOUR = "all pixels have one colour"

_MOST_BYTES_OF_A_BLOCK = 4
"""Of a JPEG's compressed data per 8 × 8 pixels of an image of one colour. Each of its blocks is the code of a zero
difference and that of the end of a block: 6 bits with the tables of ITU-T T.81, annex K.3, 18 bits in three components;
this leaves room for restart markers and other tables. Photographs of usual quality take 8 and more."""


def is_one_colour(pixels: npt.NDArray[np.uint8]) -> bool:
    """Return whether all pixels, uint8 (height, width, 3), are equal; of most images, one row tells."""
    return bool((pixels[0] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all())


def may_be_one_colour(scan_bytes: int, height: int, width: int) -> bool:
    """Return whether a JPEG's compressed data is so short that its pixels may be equal, which decoding it tells."""
    blocks = (-(-height // 16) * 2) * (-(-width // 16) * 2)  # the image padded to whole units of 4:2:0
    return scan_bytes <= _MOST_BYTES_OF_A_BLOCK * blocks + 16


def count_one_colour(source: Source, most: int = 16) -> tuple[int, int]:
    """Decode up to `most` images, evenly spaced; return how many have one colour, and how many were decoded.

    A broken image counts as neither: the reader of the set reports it.
    """
    found, decoded = 0, 0
    for index in np.unique(np.linspace(0, len(source) - 1, most).astype(int)).tolist():
        try:
            found += is_one_colour(source.decode(index))
            decoded += 1
        except ImageError:
            continue
    return found, decoded
