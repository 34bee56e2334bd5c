"""A thousand photographs through every backend that decodes for itself: how far its crops are from the reference's.

The photographs lie beside the checkout, in shared/data; without them the tests are skipped.
"""

import importlib.util
from contextlib import closing
from pathlib import Path

import pytest
import torch

from simsiam.pipeline.archive import open_records
from simsiam.pipeline.beton import Beton
from simsiam.pipeline.convert import convert
from simsiam.pipeline.draw import Augmentation
from simsiam.pipeline.loader import Backend, open_loader
from simsiam.pipeline.plan import CropPlan

PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "imagenet-sample-1000.tar"
CPU = torch.device("cpu")

# Grey levels that a crop may differ by from the torch backend's, on average over all crops, and in the worst crop.
# FFCV's decoder takes TurboJPEG's fast DCT, about a level from the exact one; its crops are resized by Pillow's filter
# (measured: 1.14 and 2.20). DALI decodes to the same pixels, and differs where it rounds between its two passes
# and repeats the pixels at a crop's border (measured: 0.16 and 0.20).
BOUNDS: dict[Backend, tuple[float, float]] = {"ffcv": (1.5, 3.0), "dali": (0.25, 0.4)}
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
    found = []
    with (
        closing(open_loader(backend, plan, CPU, 2)) as loader,
        closing(open_loader("torch", plan, CPU, 2)) as reference,
    ):
        for ours, theirs in zip(loader.epoch(0), reference.epoch(0), strict=True):
            assert torch.equal(ours.index, theirs.index)
            found.append((ours.pixels.float() - theirs.pixels.float()).abs().mean(dim=(2, 3, 4)).flatten())
    differences = torch.cat(found)
    mean, worst = BOUNDS[backend]
    assert differences.mean() < mean
    assert differences.max() < worst
