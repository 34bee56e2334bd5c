"""The reference crop: a box of decoded pixels, resized with Pillow's antialiased bilinear filter."""

import numpy as np
import numpy.typing as npt
from PIL import Image


def crop_image(image: npt.NDArray[np.uint8], box: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.uint8]:
    """Return the box of `image`, uint8 (H, W, 3), resized to uint8 (size, size, 3).

    `box` is int32 (4,): top, left, height, width.
    """
    top, left, height, width = (int(part) for part in box)
    crop = Image.fromarray(image[top : top + height, left : left + width])
    return np.array(crop.resize((size, size), Image.Resampling.BILINEAR))
