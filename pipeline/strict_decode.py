"""Encoded bytes of one image → its pixels, or why they can't be trusted: the decoder's warnings are errors here.

Two decoders take part. libjpeg-turbo, called by simplejpeg, decodes the usual JPEGs: it gives the reference decoder's
pixels, bit for bit, in less time, can reduce while decoding, and says when the compressed data made no sense, which
Pillow keeps to itself. The reference decoder takes everything else and decides whether an image is broken.
"""

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from simsiam.pipeline.decode import ImageError, decode_image
from simsiam.pipeline.jpeg import read_usual_jpeg


def check_image(encoded: bytes, name: str) -> tuple[int, int]:
    """Decode the image and return height and width in pixels.

    Raises ImageError naming `name` when the reference decoder can't decode it, or when it can, but the decoder met
    data that the JPEG standard doesn't allow: then some of the pixels are wrong.
    """
    jpeg = read_usual_jpeg(encoded)
    warning = None
    if jpeg is not None and not is_too_large(jpeg.height, jpeg.width):
        try:
            simplejpeg.decode_jpeg(encoded, strict=True)
            return jpeg.height, jpeg.width
        except ValueError as error:
            warning = str(error)
    height, width, _ = decode_image(encoded, name).shape
    if warning is not None:
        raise ImageError(f"{name}: some of its pixels are wrong: {warning}")
    return height, width


def decode_reduced(encoded: bytes, height: int, width: int) -> npt.NDArray[np.uint8] | None:
    """Decode a usual JPEG, as it is or reduced to an eighth, a quarter, three eighths or half of its size.

    Returns uint8 RGB of shape (at least `height`, at least `width`, 4), of which the last channel means nothing, in
    the smallest of these sizes. Reduced by the inverse DCT, which takes the mean over each block of pixels. None where
    libjpeg-turbo doesn't decode it without a warning: then it is the reference decoder's turn.
    """
    try:
        return simplejpeg.decode_jpeg(encoded, "RGBX", min_height=height, min_width=width, min_factor=2, strict=True)
    except ValueError:
        return None


def is_too_large(height: int, width: int) -> bool:
    """Tell whether the reference decoder would refuse that many pixels as a decompression bomb."""
    return Image.MAX_IMAGE_PIXELS is not None and height * width > 2 * Image.MAX_IMAGE_PIXELS
