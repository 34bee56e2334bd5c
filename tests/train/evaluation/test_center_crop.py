import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from simsiam.train.evaluation.center_crop import center_crop


@pytest.mark.parametrize(
    ("height", "width"),
    [(256, 256), (300, 500), (500, 300), (375, 501), (333, 250), (31, 97), (1000, 257), (257, 256), (8, 300)],
)
@pytest.mark.parametrize(("size", "short_side"), [(224, 256), (32, 32), (31, 36), (225, 256)])
def test_center_crop_is_torchvisions(height: int, width: int, size: int, short_side: int) -> None:
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reference = transforms.Compose([transforms.Resize(short_side), transforms.CenterCrop(size)])
    expected = np.asarray(reference(Image.fromarray(pixels)))
    cropped = center_crop(pixels, size, short_side)
    assert cropped.dtype == np.uint8
    assert np.array_equal(cropped, expected)
