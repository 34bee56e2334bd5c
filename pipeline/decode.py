"""Encoded bytes of one image → uint8 RGB pixels, as stored: the reference decoder."""

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image

from simsiam.pipeline.errors import RunError


class ImageError(RunError):
    """An image that can't be decoded. The message names it and says why."""


def decode_image(encoded: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode any format Pillow reads into uint8 RGB of shape (height, width, 3).

    EXIF orientation is not applied and an alpha channel is dropped, as in the reference recipe
    (`PIL.Image.convert("RGB")`). 16-bit grayscale keeps its upper eight bits, where `convert` would clip it to white.

    Raises ImageError naming `name` when the bytes are no image, are cut short, or hold more pixels than
    Pillow's decompression-bomb limit (`PIL.Image.MAX_IMAGE_PIXELS` × 2).
    """
    if not encoded:
        raise ImageError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            # Pillow warns from half the bomb limit on; we decide at the limit itself.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded)) as image:
                return rgb_pixels(image)
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in any format Pillow reads") from None
    # Pillow's format plugins raise nearly anything on damaged input: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise ImageError(f"{name}: {str(error) or type(error).__name__}") from None


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
