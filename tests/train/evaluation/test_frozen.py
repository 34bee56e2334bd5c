import shutil
from pathlib import Path

import pytest
import torch

from simsiam.train.config import KnnConfig, PretrainConfig, to_tree
from simsiam.train.evaluation.center_crop import CenterCrop
from simsiam.train.evaluation.frozen import open_frozen, open_labelled_pair, transform_of_run


def test_the_transform_is_the_runs_unless_sizes_are_given() -> None:
    config = to_tree(PretrainConfig())
    assert transform_of_run(config) == CenterCrop(224, 256)
    assert transform_of_run(config, size=112) == CenterCrop(112, 128)
    assert transform_of_run(config, short_side=300) == CenterCrop(224, 300)
    config = to_tree(PretrainConfig(knn=KnnConfig(short_side=400)))
    assert transform_of_run(config) == CenterCrop(224, 400)


def test_the_encoder_of_a_run_is_opened_to_evaluate(tiny_run: Path) -> None:
    frozen = open_frozen(tiny_run, device="cpu")
    assert not frozen.encoder.training and frozen.arithmetic.device == torch.device("cpu")
    assert (frozen.transform.size, frozen.transform.short_side) == (16, 18)


def test_other_classes_and_unlabelled_images_are_refused(tiny_images: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_images / "test", tmp_path / "other")
    (tmp_path / "other" / "fine").rename(tmp_path / "other" / "finer")
    with pytest.raises(ValueError, match=r"class of .*other has no image.*: finer"):
        open_labelled_pair(tiny_images / "train", tmp_path / "other")
    with pytest.raises(ValueError, match=r"Not every image of .*fine has a label"):
        open_labelled_pair(tiny_images / "train", tiny_images / "test" / "fine")
