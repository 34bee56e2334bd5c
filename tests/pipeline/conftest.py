from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from simsiam.pipeline.image_folder import ImageFolder


@pytest.fixture
def pictures(tmp_path: Path) -> ImageFolder:
    """Eleven JPEGs of two classes, of different sizes and shapes."""
    rng = np.random.default_rng(0)
    for number in range(11):
        folder = tmp_path / "pictures" / ("cats", "dogs")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(12, 40, 2)
        Image.fromarray(noise(height, width, rng)).save(folder / f"{number}.jpg", quality=95)
    return ImageFolder(tmp_path / "pictures")


def noise(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
