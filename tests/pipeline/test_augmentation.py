import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter, RandomResizedCrop

from simsiam.pipeline.augmentation import Augmentation, Draws, draw

COUNT = 4000
# Two samples of 8,000 and 4,000 from one distribution differ by more than this once in ten thousand tries
# (Kolmogorov–Smirnov: 2.23 · √(1/8000 + 1/4000)); the seeds are fixed.
KS_LIMIT = 0.043
SOLARIZING = Augmentation(solarize_probability=0.5)


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray) -> float:
    values = np.sort(np.concatenate([first, second]))
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (first, second)]
    return float(abs(shares[0] - shares[1]).max())


def draw_many(height: int, width: int, augmentation: Augmentation = Augmentation(), seed: int = 0) -> Draws:  # noqa: B008
    sizes = np.broadcast_to(np.array([height, width], dtype=np.int32), (COUNT, 2))
    return draw(augmentation, seed, 0, np.arange(COUNT), sizes)


def torchvision_crops(height: int, width: int) -> np.ndarray:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    return np.array([RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(COUNT)])


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 375), (64, 64), (100, 240), (32, 32)])
def test_crops_follow_random_resized_crop(height: int, width: int) -> None:
    ours, theirs = draw_many(height, width).crop.reshape(-1, 4), torchvision_crops(height, width)
    for what in (
        lambda box: box[:, 2] * box[:, 3],
        lambda box: box[:, 3] / box[:, 2],
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 0] + box[:, 2],
    ):
        assert kolmogorov_smirnov(what(ours), what(theirs)) < KS_LIMIT


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (10, 200), (200, 10)])
def test_extreme_shapes_get_torchvisions_centre_crop(height: int, width: int) -> None:
    np.testing.assert_array_equal(
        np.unique(draw_many(height, width).crop.reshape(-1, 4), axis=0),
        np.unique(torchvision_crops(height, width), axis=0),
    )


def test_crops_are_inside_images_of_any_size() -> None:
    sizes = np.random.default_rng(0).integers(1, 600, (COUNT, 2)).astype(np.int32)
    crop = draw(Augmentation(), 0, 0, np.arange(COUNT), sizes).crop
    assert crop.min() >= 0
    assert (crop[..., 2:] > 0).all()
    assert (crop[..., :2] + crop[..., 2:] <= sizes[:, None, :]).all()


def test_jitter_follows_color_jitter() -> None:
    always = replace(Augmentation(), jitter_probability=1.0)
    ours = draw_many(64, 64, always).jitter.reshape(-1, 4)
    torch.manual_seed(0)
    theirs = np.array(
        [ColorJitter.get_params([0.6, 1.4], [0.6, 1.4], [0.6, 1.4], [-0.1, 0.1])[1:] for _ in range(COUNT)]
    )
    for operation in range(4):
        assert kolmogorov_smirnov(ours[:, operation], theirs[:, operation]) < KS_LIMIT
    assert abs(np.corrcoef(ours.T) - np.eye(4)).max() < 0.05


def test_all_24_orders_are_equally_frequent() -> None:
    orders, counts = np.unique(draw_many(64, 64).order.reshape(-1, 4), axis=0, return_counts=True)
    assert len(orders) == 24
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    expected = 2 * COUNT / 24
    assert ((counts - expected) ** 2 / expected).sum() < 49.7  # chi-square, 23 degrees of freedom, once in a thousand


def test_order_is_independent_of_jitter_and_blur() -> None:
    draws = draw_many(64, 64)
    first = draws.order[..., 0].ravel()
    jittered = (draws.jitter != np.array([1, 1, 1, 0], dtype=np.float32)).any(axis=-1).ravel()
    for split in (jittered, draws.sigma.ravel() > 1):
        shares = [np.bincount(first[part], minlength=4) / part.sum() for part in (split, ~split)]
        assert abs(shares[0] - shares[1]).max() < 0.06


def test_operations_are_applied_with_their_probabilities_and_independently() -> None:
    draws = draw_many(64, 64, Augmentation(solarize_probability=0.3))
    jittered = (draws.jitter != np.array([1, 1, 1, 0], dtype=np.float32)).any(axis=-1)
    switches = np.stack([jittered, draws.flip, draws.gray, draws.sigma > 0, draws.solarize]).reshape(5, -1)
    assert abs(switches.mean(axis=1) - [0.8, 0.5, 0.2, 0.5, 0.3]).max() < 4 * 0.5 / np.sqrt(2 * COUNT)
    assert abs(np.corrcoef(switches) - np.eye(5)).max() < 0.05
    # The two views of an image are drawn independently of each other.
    assert abs(np.corrcoef(draws.flip.T)[0, 1]) < 0.06


def test_blur_is_uniform_in_its_range() -> None:
    sigma = draw_many(64, 64).sigma
    uniform = np.random.default_rng(0).uniform(0.1, 2.0, COUNT)
    assert kolmogorov_smirnov(sigma[sigma > 0], uniform) < 0.05


def test_solarizing_is_off_by_default_and_changes_no_other_draw() -> None:
    without, with_it = draw_many(64, 64), draw_many(64, 64, SOLARIZING)
    assert not without.solarize.any()
    assert abs(with_it.solarize.mean() - 0.5) < 4 * 0.5 / np.sqrt(2 * COUNT)
    for name in set(Draws._fields) - {"solarize"}:
        np.testing.assert_array_equal(getattr(without, name), getattr(with_it, name))
    for other in (with_it.order[..., 0] > 1, with_it.sigma > 1):
        assert abs(np.corrcoef(with_it.solarize.ravel(), other.ravel())[0, 1]) < 0.05


def test_draws_of_a_seed_never_change() -> None:
    # Later versions resume and repeat runs as well.
    draws = draw(SOLARIZING, 7, 3, np.array([123456]), np.array([[375, 500]], dtype=np.int32))
    assert draws.crop.tolist() == [[[25, 86, 329, 409], [58, 143, 245, 230]]]
    assert draws.flip.tolist() == [[False, True]]
    np.testing.assert_allclose(
        draws.jitter, [[[1, 1, 1, 0], [1.3318694, 0.95569074, 1.1801413, -0.083395034]]], rtol=1e-6
    )
    assert draws.order.tolist() == [[[3, 1, 0, 2], [2, 0, 1, 3]]]
    assert draws.gray.tolist() == [[False, True]]
    np.testing.assert_allclose(draws.sigma, [[0.7617455, 1.0591856]], rtol=1e-6)
    assert draws.solarize.tolist() == [[False, True]]


def test_draws_of_an_image_are_the_same_in_any_batch() -> None:
    sizes = np.random.default_rng(0).integers(10, 600, (50, 2)).astype(np.int32)
    index = np.random.default_rng(1).permutation(1000)[:50]
    together = draw(Augmentation(), 5, 3, index, sizes)
    for row in (0, 17, 49):
        alone = draw(Augmentation(), 5, 3, index[row : row + 1], sizes[row : row + 1])
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], many[row])


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"index": np.arange(1, 101)}])
def test_seed_epoch_and_index_each_change_the_draws(change: dict) -> None:
    arguments = {"seed": 0, "epoch": 0, "index": np.arange(100)}
    sizes = np.full((100, 2), 300, dtype=np.int32)
    before, after = (draw(SOLARIZING, sizes=sizes, **changed) for changed in (arguments, arguments | change))
    for name in Draws._fields:
        assert (getattr(before, name) != getattr(after, name)).any(), name


def test_shapes_and_dtypes() -> None:
    draws = draw(Augmentation(), 0, 0, np.arange(5), np.full((5, 2), 50, dtype=np.int32), views=3)
    found = {name: (value.shape, value.dtype) for name, value in draws._asdict().items()}
    assert found == {
        "crop": ((5, 3, 4), np.int32),
        "flip": ((5, 3), np.bool_),
        "jitter": ((5, 3, 4), np.float32),
        "order": ((5, 3, 4), np.uint8),
        "gray": ((5, 3), np.bool_),
        "sigma": ((5, 3), np.float32),
        "solarize": ((5, 3), np.bool_),
    }


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flip_probability": 1.5}, "flip_probability is 1.5"),
        ({"solarize_probability": -0.5}, "solarize_probability is -0.5"),
        ({"brightness": -0.1}, "brightness is -0.1"),
        ({"hue": 0.6}, "hue is 0.6"),
        ({"crop_scale": (0.5, 0.2)}, "crop_scale is 0.5, 0.2"),
        ({"crop_scale": (0.5, 1.2)}, "at most the whole image"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma is 0.0, 2.0"),
        ({"blur_sigma": (0.1, math.inf)}, "blur_sigma is 0.1, inf"),
        ({"crop_ratio": (1.0, math.inf)}, "crop_ratio is 1.0, inf"),
    ],
)
def test_values_out_of_range_are_refused(wrong: dict, message: str) -> None:
    make: Callable[..., Augmentation] = Augmentation
    with pytest.raises(ValueError, match=message):
        make(**wrong)
