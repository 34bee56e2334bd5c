from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.evaluation.center_crop import CenterCrop, center_crop
from simsiam.train.evaluation.features import Features
from simsiam.train.evaluation.neighbour_sheet import nearest_neighbours, write_neighbour_sheet

TRANSFORM = CenterCrop(16, 20, (0, 0, 0), (1, 1, 1))
TILE, FRAME, GAP, HEADER = 64, 3, 6, 18
GREEN, RED = (46, 139, 87), (214, 39, 40)


def test_the_nearest_by_angle_comes_first() -> None:
    train = Features(torch.tensor([[10.0, 0], [0, 0.1], [1, 1], [-1, 0]]), torch.zeros(4))
    assert nearest_neighbours(train, torch.tensor([[0.1, 1.0], [5, 1]]), 3).tolist() == [[1, 2, 0], [0, 2, 1]]
    assert nearest_neighbours(train, torch.ones(1, 2), 9).shape == (1, 4)


def test_sheet_shows_the_neighbours_and_their_classes(tiny_images: Path, tmp_path: Path) -> None:
    sources = open_source(tiny_images / "train"), open_source(tiny_images / "test")
    train, test = (
        Features(torch.from_numpy(np.eye(len(source), 48, dtype=np.float32)), torch.from_numpy(source.labels))
        for source in sources
    )
    # By these features the first training image is nearest to the first test image, and the last to the last one.
    test.vectors[-1] = train.vectors[-1]
    test.labels[-1] = 1 - train.labels[-1]
    out = write_neighbour_sheet(sources, (train, test), TRANSFORM, tmp_path / "new" / "sheet.png", rows=2, k=1)
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (2 * (TILE + 2 * FRAME + GAP) + GAP + HEADER, 2 * (TILE + 2 * FRAME + GAP) + GAP, 3)
    for row, (query, neighbour, color) in enumerate(((0, 0, GREEN), (15, 47, RED))):
        top = HEADER + GAP + row * (TILE + 2 * FRAME + GAP)
        for column, (source, index, frame) in enumerate(
            ((sources[1], query, (0, 0, 0)), (sources[0], neighbour, color))
        ):
            left = GAP + column * (TILE + 2 * FRAME + GAP)
            assert tuple(sheet[top, left]) == tuple(sheet[top + TILE + 2 * FRAME - 1, left]) == frame
            tile = sheet[top + FRAME : top + FRAME + TILE : 4, left + FRAME : left + FRAME + TILE : 4]
            assert np.array_equal(tile, center_crop(source.decode(index), 16, 20))


def test_large_crops_are_drawn_smaller(tiny_images: Path, tmp_path: Path) -> None:
    source = open_source(tiny_images / "test")
    features = Features(torch.eye(len(source)), torch.from_numpy(source.labels))
    transform = CenterCrop(224, 256, (0, 0, 0), (1, 1, 1))
    out = write_neighbour_sheet((source, source), (features, features), transform, tmp_path / "sheet.png", rows=1, k=1)
    with Image.open(out) as sheet:
        assert sheet.size == (2 * (128 + 2 * FRAME + GAP) + GAP, 128 + 2 * FRAME + 2 * GAP + HEADER)
