import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from simsiam.pipeline.beton import Beton
from simsiam.pipeline.beton_format import (
    ALLOCATION,
    FIELD_DESCRIPTOR,
    HEADER,
    IMAGE_FIELD,
    INT_FIELD,
    JPG,
    RAW,
    SMALLEST_PAGE_SIZE,
    VERSION,
    metadata_dtype,
)
from simsiam.pipeline.image_folder import ImageFolder

Pack = Callable[[Path, Sequence["bytes | np.ndarray"]], Beton]


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


@pytest.fixture
def pack() -> Pack:
    return pack_beton


@pytest.fixture
def beton(pictures: ImageFolder, tmp_path: Path) -> Beton:
    """The JPEGs of `pictures`, byte by byte."""
    return pack_beton(tmp_path / "pictures.beton", [pictures.read(index) for index in range(len(pictures))])


def pack_beton(path: Path, images: Sequence["bytes | np.ndarray"]) -> Beton:
    """Write JPEGs (bytes) and pixels (arrays) by the published layout alone; image i has the label i % 2."""
    row = metadata_dtype([IMAGE_FIELD, INT_FIELD])
    descriptors, metadata = np.zeros(2, FIELD_DESCRIPTOR), np.zeros(len(images), row)
    descriptors["type_id"] = IMAGE_FIELD, INT_FIELD
    table, payload = np.zeros(len(images), ALLOCATION), b""
    for number, image in enumerate(images):
        raw = isinstance(image, np.ndarray)
        width, height = image.shape[1::-1] if raw else Image.open(io.BytesIO(image)).size
        record, place = image.tobytes() if raw else image, SMALLEST_PAGE_SIZE + len(payload)
        metadata[number] = ((RAW if raw else JPG, width, height, place), number % 2)
        table[number] = number, place, len(record)
        payload += record
    header = np.zeros((), HEADER)
    header[()] = VERSION, 2, SMALLEST_PAGE_SIZE, len(images), SMALLEST_PAGE_SIZE + len(payload)
    start = header.tobytes() + descriptors.tobytes() + metadata.tobytes()
    path.write_bytes(start.ljust(SMALLEST_PAGE_SIZE, b"\0") + payload + table.tobytes())
    return Beton(path)


def noise(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
