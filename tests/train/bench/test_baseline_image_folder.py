import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from simsiam.train.bench.baseline_image_folder import (
    GaussianBlur,
    TwoViews,
    crop_transform,
    image_folder_loader,
    reference_transform,
)


def test_reference_views_have_the_published_operations_in_their_order() -> None:
    crop, jitter, gray, blur, flip, to_tensor, normalize = reference_transform(224).transforms
    assert (crop.size, crop.scale, crop.ratio) == ((224, 224), (0.2, 1.0), (3 / 4, 4 / 3))
    assert jitter.p == 0.8 and isinstance(jitter.transforms[0], transforms.ColorJitter)
    assert jitter.transforms[0].brightness == jitter.transforms[0].contrast == (0.6, 1.4)
    assert jitter.transforms[0].saturation == (0.6, 1.4) and jitter.transforms[0].hue == (-0.1, 0.1)
    assert isinstance(gray, transforms.RandomGrayscale) and gray.p == 0.2
    assert isinstance(blur.transforms[0], GaussianBlur) and blur.p == 0.5
    assert isinstance(flip, transforms.RandomHorizontalFlip) and flip.p == 0.5
    assert isinstance(to_tensor, transforms.ToTensor)
    assert normalize.mean == (0.485, 0.456, 0.406) and normalize.std == (0.229, 0.224, 0.225)


def test_blur_takes_its_radius_from_its_range() -> None:
    random.seed(0)
    dot = Image.fromarray(np.pad(np.full((1, 1), 255, np.uint8), 20))
    spreads = []
    for _ in range(50):
        weights = np.asarray(GaussianBlur(1.0, 2.0)(dot), float)
        offset = np.arange(41) - 20
        spreads.append(float(np.sqrt((weights.sum(0) * offset**2).sum() / weights.sum())))
    assert 0.8 < min(spreads) < 1.2 and 1.8 < max(spreads) < 2.2


@pytest.mark.parametrize(("transform", "dtype"), [(reference_transform, torch.float32), (crop_transform, torch.uint8)])
def test_loader_gives_as_many_batches_of_two_views_as_asked_for(transform, dtype, tiny_images: Path) -> None:
    torch.manual_seed(0)
    loader = image_folder_loader(tiny_images / "train", transform(16), batch_size=20, workers=0, steps=5)
    batches = list(loader)
    assert len(batches) == len(loader) == 5
    for (first, second), labels in batches:
        assert first.shape == second.shape == (20, 3, 16, 16) and first.dtype == second.dtype == dtype
        assert len(labels) == 20 and not torch.equal(first, second)


def test_crops_are_the_pixels_of_the_image() -> None:
    image = Image.fromarray(np.full((40, 30, 3), (10, 20, 30), np.uint8))
    for view in TwoViews(crop_transform(8))(image):
        assert view.tolist() == [[[value] * 8] * 8 for value in (10, 20, 30)]


def test_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"torchvision's ImageFolder can't read .*; give a folder of classes"):
        image_folder_loader(tmp_path, crop_transform(8), batch_size=1, workers=0, steps=1)
