"""Crops of images on disk, in one call: source, plan and loader with their usual settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.crops import Backend, CropLoader
from simsiam.pipeline.order import Order
from simsiam.pipeline.plan import CropPlan, OnBroken
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import worker_count

if TYPE_CHECKING:
    import torch


def open_crops(
    path: str | Path,
    size: int = 224,
    batch_size: int = 256,
    *,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    order: Order = "random",
    on_broken: OnBroken = "error",
    backend: Backend = "auto",
    device: torch.device | str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> CropLoader:
    """Open a folder of images or a `.beton` file as a loader of two random crops of each image.

        with open_crops("photos", size=224, batch_size=256) as loader:
            for crops in loader.epoch(0):
                views = augment_views(crops.pixels, crops.draws)

    `crops.pixels` is uint8 (batch_size, 2, size, size, 3) on the device. `len(loader)` is the number of steps in an
    epoch: whole batches only, so a few images are skipped, other ones in each epoch. `loader.epoch(0, first_step=100)`
    resumes at a step. The loader closes itself at the end of the `with` block.

    Args:
        path: Folder of images, whose sub-folders are classes if there are any, or a `.beton` file.
        size: Height and width of a crop in pixels.
        batch_size: Images in a step.
        augmentation: Distributions that crops and views are drawn from; by default SimSiam's (arXiv 2011.10566,
            appendix A).
        seed: Seed of order and augmentation: the same seed gives the same crops on every backend.
        order: `random`, or `block`, which reads a file larger than memory nearly in sequence.
        on_broken: What to do with an image that can't be decoded: raise ImageError (`error`), or take the next good
            image and count it in `loader.replaced` (`replace`).
        backend: What decodes and crops; `auto` takes the fastest that is installed and can read the source.
        device: Where the crops go; by default the GPU if PyTorch sees one, else the CPU.
        workers: Loader processes (torch) or threads (ffcv, dali); by default one for each core this program may use.
        progress: Called with (done, total) images while a folder is scanned, or a small set is read into memory.

    Raises:
        UsageError: There is no such folder or file, it holds no image or fewer than a batch, a value is out of range,
            or the backend can't read it; MissingError when the backend isn't installed.
        ImageError: An image is broken, and the backend reads all of them when it opens (`resident`).
        RunError: The backend doesn't work on this device.
    """
    import torch

    from simsiam.pipeline.loaders.open_loader import open_loader

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    source = open_source(path, progress=progress)
    plan = CropPlan(source, augmentation or Augmentation(), size, batch_size, seed, order=order, on_broken=on_broken)
    return open_loader(backend, plan, torch.device(device), worker_count(workers), progress)
