import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton.layout import (
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
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.sources.image_folder import ImageFolder

Pack = Callable[[Path, Sequence["bytes | np.ndarray"]], Beton]


@pytest.fixture
def pictures(tmp_path: Path) -> ImageFolder:
    """Eleven JPEGs of two classes, of different sizes and shapes."""
    rng = np.random.default_rng(0)
    for number in range(11):
        folder = tmp_path / "pictures" / ("cats", "dogs")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(12, 40, 2)
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=95)
    return ImageFolder(tmp_path / "pictures")


@pytest.fixture
def pack() -> Pack:
    return pack_beton


@pytest.fixture
def build() -> Callable[[Path, list[tuple[int, str, list]], list[bytes]], Path]:
    return build_beton


@pytest.fixture
def beton(pictures: ImageFolder, tmp_path: Path) -> Beton:
    """The JPEGs of `pictures`, byte for byte."""
    return pack_beton(tmp_path / "pictures.beton", [pictures.read(index) for index in range(len(pictures))])


def pack_beton(path: Path, images: Sequence["bytes | np.ndarray"]) -> Beton:
    """Write JPEGs (bytes) and pixels (arrays); image i has the label i % 2."""
    rows, records = [], []
    for image in images:
        raw = isinstance(image, np.ndarray)
        width, height = image.shape[1::-1] if raw else Image.open(io.BytesIO(image)).size
        rows.append((RAW if raw else JPG, width, height))
        records.append(image.tobytes() if raw else image)
    labels = [number % 2 for number in range(len(images))]
    return Beton(build_beton(path, [(IMAGE_FIELD, "image", rows), (INT_FIELD, "label", labels)], records))


def build_beton(path: Path, fields: list[tuple[int, str, list]], records: list[bytes]) -> Path:
    """Write a file of any fields, by the published layout alone; image i points to record i."""
    row = metadata_dtype([kind if kind < 7 else 0 for kind, _, _ in fields])
    metadata, table = np.zeros(len(records), row), np.zeros(len(records), ALLOCATION)
    pointers = SMALLEST_PAGE_SIZE + np.cumsum([0, *map(len, records[:-1])])
    for i, record in enumerate(records):
        table[i] = (i, pointers[i], len(record))
        for column, (kind, _, values) in enumerate(fields):
            metadata[f"f{column}"][i] = (*values[i], pointers[i]) if kind == IMAGE_FIELD else values[i]
    descriptors = np.zeros(len(fields), FIELD_DESCRIPTOR)
    for descriptor, (kind, name, _) in zip(descriptors, fields, strict=True):
        descriptor["type_id"] = kind
        descriptor["name"][: len(name)] = list(name.encode())
    data = b"".join(records)
    header = np.array((VERSION, len(fields), SMALLEST_PAGE_SIZE, len(records), SMALLEST_PAGE_SIZE + len(data)), HEADER)
    head = header.tobytes() + descriptors.tobytes() + metadata.tobytes()
    path.write_bytes(head.ljust(SMALLEST_PAGE_SIZE, b"\0") + data + table[::-1].tobytes())
    return path
