from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simsiam.train.demo_images import CLASSES, draw_demo_image, write_demo_images
from simsiam.train.evaluation.features import Features
from simsiam.train.evaluation.knn import knn_accuracy


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_files_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    write_demo_images(tmp_path / "one", 40, seed=5, workers=1)
    write_demo_images(tmp_path / "two", 40, seed=5, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_more_images_begin_with_the_same_ones(tmp_path: Path) -> None:
    write_demo_images(tmp_path / "few", 10, seed=5)
    write_demo_images(tmp_path / "many", 30, seed=5)
    assert files(tmp_path / "few").items() <= files(tmp_path / "many").items()


def test_another_seed_gives_other_images(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_demo_images(tmp_path / str(seed), 20, seed)
    contents = list(files(tmp_path / "0").values()) + list(files(tmp_path / "1").values())
    assert len(set(contents)) == 40


def test_every_class_has_its_folder_and_its_share(tmp_path: Path) -> None:
    assert len(set(CLASSES)) == 10
    write_demo_images(tmp_path, 25, seed=0)
    counts = [len(list((tmp_path / name).glob("*.jpg"))) for name in CLASSES]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(CLASSES)
    assert sum(counts) == 25 and set(counts) == {2, 3}


def test_images_are_square_rgb_jpegs(tmp_path: Path) -> None:
    write_demo_images(tmp_path, 10, seed=0)
    for file in tmp_path.rglob("*.jpg"):
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_image_is_drawn_from_its_generator_alone() -> None:
    first, again, other = (draw_demo_image(3, np.random.default_rng(seed), size=32) for seed in (1, 1, 2))
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_progress_is_told(tmp_path: Path) -> None:
    calls = []
    write_demo_images(tmp_path, 20, seed=0, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 20) for done in range(1, 21)]


def test_nearest_neighbours_in_pixels_or_in_colours_hardly_tell_the_class() -> None:
    # Otherwise the demo's figures would say nothing about what the encoder has learned.
    images = np.stack([draw_demo_image(index % 10, np.random.default_rng([9, index]), size=32) for index in range(800)])
    pixels = torch.from_numpy(images.reshape(800, -1)).float() - 127
    colors = (images // 64).astype(np.int64) @ [16, 4, 1]  # four levels of each of red, green and blue
    histograms = torch.stack(
        [torch.bincount(torch.from_numpy(image.ravel()), minlength=64) for image in colors]
    ).float()
    labels = torch.arange(800) % 10
    for vectors, at_most in ((pixels, 0.2), (histograms, 0.25)):
        train, test = Features(vectors[:600], labels[:600]), Features(vectors[600:], labels[600:])
        assert knn_accuracy(train, test, k=20, temperature=0.1) <= at_most
