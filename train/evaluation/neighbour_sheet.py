"""Neighbour sheet: a PNG of test images, each with its nearest training images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw

from simsiam.pipeline.atomic_write import open_atomically
from simsiam.pipeline.source import Source
from simsiam.train.evaluation.center_crop import CenterCrop, center_crop
from simsiam.train.evaluation.features import Features

_GAP, _HEADER, _FRAME = 6, 18, 3
_SMALLEST_TILE, _LARGEST_TILE = 64, 128  # pixels; smaller crops are enlarged by a whole factor, pixel by pixel
_COLORS = {"the test image": "black", "same class": "#2e8b57", "another class": "#d62728"}


def nearest_neighbours(train: Features, queries: torch.Tensor, k: int) -> torch.Tensor:
    """Return the `k` training images nearest to each feature vector of `queries` (m, d), int64 (m, k).

    The nearest by cosine similarity comes first; if there are fewer than k training images, all are returned.
    """
    bank, vectors = (torch.nn.functional.normalize(each, dim=1) for each in (train.vectors, queries))
    return (vectors @ bank.T).topk(min(k, len(bank)), dim=1).indices


def write_neighbour_sheet(
    sources: tuple[Source, Source],
    features: tuple[Features, Features],
    transform: CenterCrop,
    out: Path,
    rows: int = 8,
    k: int = 8,
) -> Path:
    """Draw `rows` test images, evenly spread over their source, each with its `k` nearest training images.

    `sources` and `features` are those of the training and of the test images. A green frame marks a neighbour of the
    same class, a red one another class. The images are those that the encoder saw, `transform`'s centre crops.
    """
    train, test = features
    queries = np.linspace(0, len(test.labels) - 1, min(rows, len(test.labels))).round().astype(np.int64)
    neighbours = nearest_neighbours(train, test.vectors[queries], k).numpy()
    pictures = []
    for query, row in zip(queries.tolist(), neighbours.tolist(), strict=True):
        line = [(_crop(sources[1], query, transform), "the test image")]
        for each in row:
            kind = "same class" if train.labels[each] == test.labels[query] else "another class"
            line.append((_crop(sources[0], each, transform), kind))
        pictures.append(line)
    return _write(pictures, out)


def _crop(source: Source, index: int, transform: CenterCrop) -> npt.NDArray[np.uint8]:
    pixels = center_crop(source.decode(index), transform.size, transform.short_side)
    if transform.size > _LARGEST_TILE:
        return center_crop(pixels, _LARGEST_TILE, _LARGEST_TILE)
    factor = -(-_SMALLEST_TILE // transform.size)
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _write(rows: Sequence[Sequence[tuple[npt.NDArray[np.uint8], str]]], out: Path) -> Path:
    pitch = rows[0][0][0].shape[0] + 2 * _FRAME + _GAP
    sheet = Image.new("RGB", (max(map(len, rows)) * pitch + _GAP, len(rows) * pitch + _GAP + _HEADER), "white")
    draw = ImageDraw.Draw(sheet)
    x = _GAP
    for text, color in _COLORS.items():
        draw.text((x, 3), text, fill=color)
        x += int(draw.textlength(text)) + 3 * _GAP
    for i, row in enumerate(rows):
        for j, (pixels, kind) in enumerate(row):
            left, top = _GAP + j * pitch, _HEADER + _GAP + i * pitch
            side = pixels.shape[0] + 2 * _FRAME
            draw.rectangle([left, top, left + side - 1, top + side - 1], fill=_COLORS[kind])
            sheet.paste(Image.fromarray(pixels), (left + _FRAME, top + _FRAME))
    with open_atomically(out) as file:
        sheet.save(file, format="png")
    return out
