"""Contact sheet of a source: originals, and each backend's crops and augmented views side by side, as one PNG."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from simsiam.kernels.augment import augment_views
from simsiam.pipeline.atomic_write import open_atomically
from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import Backend, Crops
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.loaders.open_loader import choose_backend, open_loader
from simsiam.pipeline.plan import CropPlan, OnBroken
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.source import Source

_GAP = 6
_HEADER = 18
_SMALLEST_TILE, _LARGEST_TILE = 96, 512
"""Pixels. Smaller views are enlarged by a whole factor, pixel by pixel, and larger ones reduced."""
_PICTURES = ("crop 1", "crop 2", "view 1", "view 2")


def preview(
    source: Source,
    out: Path,
    *,
    augmentation: Augmentation,
    size: int = 224,
    count: int = 8,
    seed: int = 0,
    epoch: int = 0,
    backends: Sequence[Backend] = ("auto",),
    on_broken: OnBroken = "error",
    device: torch.device | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a PNG with one row per image: the original with its two boxes, the two crops, the two augmented views.

    They are exactly the crops and views that `pretrain` makes of the first `count` images of that epoch with that seed.
    Several backends execute the same draws; their results for one crop or view are next to each other. A broken image
    is an error, or replaced by the next good one, as in training. `progress` is called with (done, total) images by a
    backend that reads them all first.

    Raises ImageError naming a broken image; UsageError when `count` is below 1 or larger than the source, or no backend
    is named.
    """
    device = device or torch.device("cpu")
    if not 1 <= count <= len(source):
        raise UsageError(f"{count} images can't be shown of {len(source)}; give a count of 1 to {len(source)}.")
    if not backends:
        raise UsageError("No backend is named; give one or several, such as torch and ffcv.")
    plan = CropPlan(source, augmentation, size, count, seed, on_broken=on_broken)
    chosen: list[Backend] = [choose_backend(plan, device)[0] if name == "auto" else name for name in backends]
    names = list(dict.fromkeys(chosen))
    crops = [_first_crops(name, plan, epoch, device, progress) for name in names]
    by_backend = [_crops_and_views(of_one) for of_one in crops]
    # All backends took the same images, and replaced broken ones by the same others.
    index, boxes = crops[0].index.tolist(), crops[0].draws.crop.tolist()
    rows = []
    for row in range(count):
        original = _with_boxes(source.decode(index[row]), boxes[row], size)
        rows.append([original, *(pictures[row, k] for k in range(len(_PICTURES)) for pictures in by_backend)])
    titles = ["original", *(f"{picture} {name}" for picture in _PICTURES for name in names)]
    return _write_sheet(titles, rows, size, out)


def _first_crops(
    backend: Backend, plan: CropPlan, epoch: int, device: torch.device, progress: Progress | None
) -> Crops:
    """Return one backend's first step of an epoch."""
    with closing(open_loader(backend, plan, device, workers=0, progress=progress)) as loader:
        return next(loader.epoch(epoch))


def _crops_and_views(crops: Crops) -> np.ndarray:
    """Return both crops and both augmented views of every image, uint8 (N, 4, S, S, 3)."""
    views = augment_views(crops.pixels, crops.draws, mean=(0, 0, 0), std=(1, 1, 1))
    views = (views.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).byte()
    # All first views come before all second ones.
    return torch.cat([crops.pixels, torch.stack(views.chunk(2), dim=1)], dim=1).cpu().numpy()


def _with_boxes(pixels: np.ndarray, boxes: Sequence[Sequence[int]], size: int) -> np.ndarray:
    """Fit an image into a square and draw each view's crop box on it."""
    image = Image.fromarray(pixels)
    scale = size / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    draw = ImageDraw.Draw(image)
    for (top, left, height, width), color in zip(boxes, ("red", "cyan"), strict=True):
        x, y = left * scale, top * scale
        draw.rectangle(
            [x, y, max((left + width) * scale - 1, x), max((top + height) * scale - 1, y)],
            outline=color,
            width=max(1, size // 112),
        )
    square = Image.new("RGB", (size, size), "white")
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return np.asarray(square)


def _write_sheet(titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]], size: int, out: Path) -> Path:
    side = min(size * -(-_SMALLEST_TILE // size), _LARGEST_TILE)
    resampling = Image.Resampling.NEAREST if side >= size else Image.Resampling.BOX
    pitch = side + _GAP
    sheet = Image.new("RGB", (len(titles) * pitch + _GAP, len(rows) * pitch + _GAP + _HEADER), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * pitch, 3), title, fill="black")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((side, side), resampling)
            sheet.paste(tile, (_GAP + column * pitch, _HEADER + _GAP + row * pitch))
    with open_atomically(out) as file:
        sheet.save(file, format="png")
    return out
