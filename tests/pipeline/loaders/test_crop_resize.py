import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.loaders.crop_resize import crop_resize, filter_weights


def resized(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    crop = np.full((size, size, 3), 7, np.uint8)
    crop_resize(np.ascontiguousarray(image).reshape(-1), image.shape[1], *box, crop)
    return crop


def reference(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    top, left, height, width = box
    cut = Image.fromarray(image[top : top + height, left : left + width])
    return np.asarray(cut.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("image_size", "box", "size"),
    [
        ((375, 500), (0, 0, 375, 500), 224),
        ((375, 500), (31, 77, 201, 333), 224),
        ((64, 48), (5, 3, 40, 30), 97),  # enlarged, and no whole number of blocks of rows
        ((50, 40), (49, 39, 1, 1), 16),  # one pixel
        ((1, 3000), (0, 100, 1, 2900), 32),
        ((3000, 1), (0, 0, 3000, 1), 32),
        ((9, 9), (0, 0, 9, 9), 9),
        ((700, 600), (10, 20, 640, 570), 5),
    ],
)
def test_a_crop_is_within_a_grey_level_of_pillows(
    image_size: tuple[int, int], box: tuple[int, int, int, int], size: int
) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*image_size, 3)).astype(np.uint8)
    difference = resized(image, box, size).astype(int) - reference(image, box, size)
    # Pillow also rounds between its two passes, and has weights of 22 bits.
    assert abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.05


def test_random_boxes_and_sizes_are_within_a_grey_level_of_pillows() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        image = rng.integers(0, 256, (*rng.integers(1, 400, 2), 3)).astype(np.uint8)
        top, left = (int(rng.integers(0, side)) for side in image.shape[:2])
        height, width = (int(rng.integers(1, room + 1)) for room in (image.shape[0] - top, image.shape[1] - left))
        box, size = (top, left, height, width), int(rng.integers(1, 230))
        difference = resized(image, box, size).astype(int) - reference(image, box, size)
        assert abs(difference).max() <= 1, (image.shape, box, size)


def test_nothing_is_written_outside_the_crop() -> None:
    image = np.full((30, 40, 3), 255, np.uint8)
    crops = np.full((3, 17, 17, 3), 7, np.uint8)
    crop_resize(image.reshape(-1), 40, 2, 3, 25, 31, crops[1])
    assert (crops[1] == 255).all()
    assert (crops[[0, 2]] == 7).all()


def test_nothing_outside_the_box_is_read() -> None:
    image = np.random.default_rng(2).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    box = (20, 30, 25, 35)
    other = np.zeros_like(image)
    other[20:45, 30:65] = image[20:45, 30:65]
    assert np.array_equal(resized(image, box, 32), resized(other, box, 32))


def test_a_box_of_the_crops_size_is_copied() -> None:
    image = np.random.default_rng(3).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    assert np.array_equal(resized(image, (4, 6, 32, 32), 32), image[4:36, 6:38])


@pytest.mark.parametrize(("length", "size"), [(1, 7), (7, 7), (100, 7), (7, 100), (3000, 224)])
def test_weights_add_up_to_one_within_the_box(length: int, size: int) -> None:
    first, count, weights = filter_weights(length, size)
    assert (first >= 0).all() and (count > 0).all() and (first + count <= length).all()
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
