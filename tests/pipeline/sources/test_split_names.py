from pathlib import Path

import pytest
from PIL import Image

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.sources.split_names import refuse_splits_as_classes, split_in


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002.parquet", "train"),
        ("ILSVRC2012_img_val.tar", "val"),
        ("train2017.zip", "train"),
        ("VALIDATION.tar", "validation"),
        ("imagenet1k-test-003.tar", "test"),
        ("trainval.tar", "trainval"),
        ("constrained-000.tar", None),
        ("valley.zip", None),
        ("n01440764.tar", None),
    ],
)
def test_a_split_is_a_word_of_the_name(name: str, split: str | None) -> None:
    assert split_in(name) == split


@pytest.mark.parametrize(
    "classes",
    [
        ["train"],
        ["test", "train", "val"],
        ["train2017", "val2017"],
        ["Training", "Testing"],
        ["seg_pred", "seg_test", "seg_train"],
        ["masks", "train", "val"],
    ],
)
def test_splits_are_no_classes_and_each_path_is_given(classes: list[str]) -> None:
    with pytest.raises(UsageError, match="splits") as caught:
        refuse_splits_as_classes(classes, "/r")
    said = str(caught.value)
    assert all((f"/r/{name}" in said) == (split_in(name) is not None) for name in classes)
    assert all(name in said for name in classes)


@pytest.mark.parametrize(
    "classes",
    [
        [],
        ["cats", "dogs"],
        ["bus", "car", "train"],
        ["train_interior", "train_station"],
        ["bullet train", "test tube", "cat", "dog", "fox"],
    ],
)
def test_a_class_may_have_the_name_of_a_split(classes: list[str]) -> None:
    refuse_splits_as_classes(classes, "/r")


@pytest.mark.parametrize("opened", [open_source, open_records])
def test_the_root_of_two_splits_is_refused_however_it_is_opened(opened, tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "val/cat/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    with pytest.raises(UsageError, match=f"splits.*{tmp_path}/train, {tmp_path}/val"):
        opened(tmp_path)
    assert list(opened(tmp_path / "train").classes) == ["cat"]
