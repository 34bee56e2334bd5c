"""Crops of a thousand photographs on the backends with a decoder of their own, compared with the reference's.

The photographs are next to the checkout, in shared/data; without them the tests are skipped.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.crops import Backend
from simsiam.pipeline.loaders.open_loader import open_loader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_records import open_records

PHOTOGRAPHS = Path(__file__).parents[4] / "shared" / "data" / "imagenet-sample-1000.tar"
CPU = torch.device("cpu")

# Largest differences from the torch backend's crops in grey levels: mean over all crops, mean over the worst crop, and
# worst pixel. All backends decode to the same pixels. Pillow rounds between its two passes, ffcv doesn't (measured:
# 0.164, 0.209 and 1). DALI repeats the pixels at a crop's border, Pillow takes none beyond it (measured: 0.166, 0.210
# and 15).
BOUNDS: dict[Backend, tuple[float, float, int]] = {"ffcv": (0.25, 0.4, 1), "dali": (0.25, 0.4, 24)}
PACKAGES: dict[Backend, str] = {"ffcv": "ffcv", "dali": "nvidia.dali"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Beton:
    if not PHOTOGRAPHS.exists():
        pytest.skip("the photographs are not there")
    out = tmp_path_factory.mktemp("parity") / "photographs.beton"
    assert convert(open_records(PHOTOGRAPHS), out).count == 1000
    return Beton(out)


def is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("backend", list(BOUNDS))
def test_crops_of_photographs_are_those_of_the_reference(backend: Backend, photographs: Beton) -> None:
    if not is_installed(PACKAGES[backend]):
        pytest.skip(f"{backend} is not installed")
    plan = CropPlan(photographs, Augmentation(), crop_size=224, batch_size=50)
    found, largest = [], 0
    with (
        open_loader(backend, plan, CPU, 2) as loader,
        open_loader("torch", plan, CPU, 2) as reference,
    ):
        for ours, theirs in zip(loader.epoch(0), reference.epoch(0), strict=True):
            assert torch.equal(ours.index, theirs.index)
            difference = (ours.pixels.int() - theirs.pixels.int()).abs()
            found.append(difference.float().mean(dim=(2, 3, 4)).flatten())
            largest = max(largest, int(difference.max()))
    differences = torch.cat(found)
    mean, worst_crop, worst_pixel = BOUNDS[backend]
    assert differences.mean() < mean
    assert differences.max() < worst_crop
    assert largest <= worst_pixel


def test_reduced_photographs_give_nearly_the_crops_of_the_originals(photographs: Beton) -> None:
    """What convert itself changes: images above 500 pixels are reduced and encoded again, the others copied."""
    originals = open_records(PHOTOGRAPHS)
    plan = CropPlan(photographs, Augmentation(), crop_size=224, batch_size=50)
    copied, reduced = [], []
    for row in range(0, len(photographs), 8):
        original, stored = (source.decode(row) for source in (originals, photographs))
        (top, left, height, width), *_ = plan.draws(0, np.array([row])).crop[0].tolist()
        scale = original.shape[0] / stored.shape[0], original.shape[1] / stored.shape[1]
        box = (left * scale[1], top * scale[0], (left + width) * scale[1], (top + height) * scale[0])
        crop = Image.fromarray(original).resize((224, 224), Image.Resampling.BILINEAR, box)
        ours = Image.fromarray(stored).resize(
            (224, 224), Image.Resampling.BILINEAR, (left, top, left + width, top + height)
        )
        difference = np.abs(np.asarray(crop, np.float32) - np.asarray(ours)).mean()
        is_copy = originals.read(row).startswith(photographs.read(row))
        if not is_copy and original.shape == stored.shape:
            continue
        (copied if is_copy else reduced).append(difference)
    assert len(copied) > 50 and max(copied) == 0
    assert len(reduced) > 10 and 1.0 < np.mean(reduced) < 3.0  # 1.90 over all 126 that are reduced
