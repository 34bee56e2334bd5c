import numpy as np
import pytest
import torch
from PIL import Image

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders import resident_loader
from simsiam.pipeline.loaders.resident_loader import (
    ResidentLoader,
    crop_by_matrix_products,
    resident_bytes,
    resize_weights,
)
from simsiam.pipeline.loaders.torch_loader import TorchLoader
from simsiam.pipeline.plan import CropPlan

CPU = torch.device("cpu")


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 64, 16), (20, 20, 48), (64, 9, 24)])
def test_a_crop_is_pillows_to_rounding(height: int, width: int, size: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes: list[tuple[int, ...]] = [(0, 0, height, width), (height - 1, width - 1, 1, 1), (0, 0, 1, width)]
    for _ in range(40):
        box_height, box_width = rng.integers(1, height + 1), rng.integers(1, width + 1)
        top, left = rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)
        boxes.append((int(top), int(left), int(box_height), int(box_width)))
    found = crop_by_matrix_products(
        torch.from_numpy(image)[None], torch.tensor(np.array(boxes), dtype=torch.int32)[None], size
    )
    for view, (top, left, box_height, box_width) in enumerate(boxes):
        crop = Image.fromarray(image[top : top + box_height, left : left + box_width])
        expected = np.asarray(crop.resize((size, size), Image.Resampling.BILINEAR), dtype=int)
        difference = abs(found[0, view].numpy().astype(int) - expected)
        assert difference.max() <= 2
        assert difference.mean() < 0.3


def test_weights_of_every_pixel_sum_to_one_and_stay_in_the_crop() -> None:
    weights = resize_weights(torch.tensor([3, 0, 9]), torch.tensor([7, 20, 1]), source_size=20, size=5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 5))
    assert weights[0, :, :3].abs().max() == weights[0, :, 10:].abs().max() == 0


def test_images_of_different_sizes_give_the_reference_backends_crops(pictures) -> None:
    plan = CropPlan(pictures, Augmentation(), crop_size=16, batch_size=5)
    for ours, reference in zip(
        ResidentLoader(plan, CPU).epoch(0), TorchLoader(plan, CPU, workers=0).epoch(0), strict=True
    ):
        difference = (ours.pixels.int() - reference.pixels.int()).abs()
        assert difference.max() <= 2
        assert difference.float().mean() < 0.3


def test_a_set_too_large_to_keep_is_refused(pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident_loader, "RESIDENT_LIMIT_BYTES", resident_bytes(pictures) - 1)
    with pytest.raises(ValueError, match="GiB"):
        ResidentLoader(CropPlan(pictures, Augmentation(), 8, 3), CPU)


def test_progress_counts_every_image(pictures) -> None:
    calls: list[tuple[int, int]] = []
    ResidentLoader(
        CropPlan(pictures, Augmentation(), 8, 3), CPU, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(number, 11) for number in range(1, 12)]
