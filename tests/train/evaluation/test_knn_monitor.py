import dataclasses
import shutil
from pathlib import Path

import pytest
import torch

from simsiam.model.resnet import resnet
from simsiam.pipeline.errors import ImageError, RunError
from simsiam.train.config import KnnConfig, PretrainConfig
from simsiam.train.evaluation import knn_monitor as module
from simsiam.train.evaluation.features import Features
from simsiam.train.evaluation.knn_monitor import KnnMonitor
from simsiam.train.precision import Arithmetic

FP32 = Arithmetic(torch.device("cpu"), "fp32")


def monitor(train: Path, test: Path, k: int = 200) -> KnnMonitor:
    data = dataclasses.replace(PretrainConfig().data, size=16)
    config = dataclasses.replace(PretrainConfig(), data=data, knn=KnnConfig(train=train, test=test, k=k))
    return KnnMonitor(config, FP32, workers=0)


def test_without_images_it_is_not_wanted(tiny_images: Path) -> None:
    assert not KnnMonitor(PretrainConfig(), FP32, workers=0).wanted
    assert monitor(tiny_images / "train", tiny_images / "test").wanted


def test_what_is_measured_is_told(tiny_images: Path, tmp_path: Path) -> None:
    said = monitor(tiny_images / "train", tiny_images / "test").describe()
    assert said == "48 of 48 images vote on each of 16"
    for folder in ("fine", "coarse"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "broken.jpg").write_bytes(b"no image")
        (tmp_path / folder / "good.jpg").write_bytes(next((tiny_images / "test" / folder).iterdir()).read_bytes())
    said = monitor(tiny_images / "train", tmp_path).describe()
    assert said == "48 of 48 images vote on each of 2, broken and skipped: 2"


def test_an_untrained_encoder_is_measured_with_statistics_of_the_images(
    tiny_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, features = [], Features(torch.zeros(0), torch.zeros(0))
    monkeypatch.setattr(module, "extract_features", lambda encoder, *_, **__: measured.append(encoder) or features)
    monkeypatch.setattr(module, "knn_accuracy", lambda *_: 0.5)
    monkeypatch.setattr(module, "write_neighbour_sheet", lambda *_: tmp_path)
    encoder, measure = resnet("resnet18", "cifar"), monitor(tiny_images / "train", tiny_images / "test").measure
    measure(encoder, tmp_path)
    assert measured[0] is measured[1] is not encoder and bool(measured[0].bn1.running_mean.any())
    torch.nn.init.ones_(encoder.get_buffer("bn1.num_batches_tracked"))
    measure(encoder, tmp_path)
    assert measured[2] is measured[3] is encoder


def test_images_without_labels_are_refused(tiny_images: Path) -> None:
    with pytest.raises(ValueError, match=r"Not every image of .*fine has a label"):
        monitor(tiny_images / "train" / "fine", tiny_images / "test")


def test_other_classes_are_refused(tiny_images: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "finer").symlink_to(tiny_images / "test" / "fine")
    with pytest.raises(ValueError, match=r"1 class of .*other has no image in .*train: finer; .* coarse, fine"):
        monitor(tiny_images / "train", tmp_path / "other")


def test_a_class_without_test_images_is_told_and_labels_are_matched_by_name(tiny_images: Path, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "fine").symlink_to(tiny_images / "train" / "fine")
    with pytest.warns(UserWarning, match=r"no image of 1 of the 2 classes of .*train: coarse\."):
        watch = monitor(tiny_images / "train", tmp_path / "test", k=1)
    # Each test image is a training image as well, and finds itself.
    assert watch.measure(resnet("resnet18", "cifar"), tmp_path / "sheet.png")[0] == 1.0


def test_sheet_that_cannot_be_written_is_a_warning_and_the_accuracy_stays(tiny_images: Path, tmp_path: Path) -> None:
    (tmp_path / "plots").touch()  # a file where the folder should be
    encoder = resnet("resnet18", "cifar")
    config = dataclasses.replace(PretrainConfig().data, size=16)
    knn = KnnConfig(train=tiny_images / "test", test=tiny_images / "test", k=1)
    measure = KnnMonitor(PretrainConfig(data=config, knn=knn), FP32, workers=0).measure
    with pytest.warns(UserWarning, match="nearest neighbours could not be drawn to .*sheet.png"):
        assert measure(encoder, tmp_path / "plots" / "sheet.png") == (1.0, None)
    assert measure(encoder, tmp_path / "sheet.png") == (1.0, tmp_path / "sheet.png")


def test_an_image_that_breaks_is_named_and_told_apart_from_those_of_the_run(tiny_images: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_images / "test", tmp_path / "test")
    measure = monitor(tiny_images / "train", tmp_path / "test").measure
    broken = next((tmp_path / "test" / "fine").iterdir())
    broken.write_bytes(b"no image")
    with pytest.raises(RunError, match=f"kNN monitor .*{broken.name}") as caught:
        measure(resnet("resnet18", "cifar"), tmp_path / "sheet.png")
    assert not isinstance(caught.value, ImageError)
