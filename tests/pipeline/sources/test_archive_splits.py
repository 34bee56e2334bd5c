import re
from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.archive_splits import refuse_several_splits
from simsiam.pipeline.sources.file_pattern import expand


def refused(root: Path, names: list[str]) -> list[str]:
    """Return the ways out that a refusal gives, relative to the root; empty when the files are one set."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    try:
        refuse_several_splits([root / name for name in names], root)
    except UsageError as error:
        given = re.findall(r"give one of them: (.*?)\. Braces", str(error))
        return [one.strip("'").removeprefix(f"{root}/") for one in given[0].split(", ")]
    return []


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["train-0000.tar", "train-0001.tar", "val-0000.tar"], ["train-*.tar", "val-0000.tar"]),
        (
            [f"{split}-{i:05d}-of-00002.parquet" for split in ("test", "train") for i in range(2)],
            ["test-*.parquet", "train-*.parquet"],
        ),
        (
            ["extra-00000-of-00002.parquet", "extra-00001-of-00002.parquet", "train-00000-of-00001.parquet"],
            ["extra-*.parquet", "train-00000-of-00001.parquet"],
        ),
        (
            ["a-00000-of-00001.parquet", "b-00000-of-00001.parquet"],
            ["a-00000-of-00001.parquet", "b-00000-of-00001.parquet"],
        ),
        (["train/0.tar", "train/1.tar", "val/0.tar"], ["train", "val"]),
        (["default/train/0000.parquet", "default/test/0000.parquet"], ["default/train", "default/test"]),
        (["a_train_1.zip", "a_test_1.zip", "b_train_2.zip", "b_test_2.zip"], ["*train*.zip", "*test*.zip"]),
        (["shard-0.tar", "shard-1.tar", "val-0.tar"], ["shard-*.tar", "val-0.tar"]),
        (["train-1.tar", "train-2.tar", "train-val-1.tar", "val-1.tar"], ["train-*.tar", "val-1.tar"]),
    ],
)
def test_sets_side_by_side_are_refused_with_the_pattern_of_each(
    tmp_path: Path, names: list[str], patterns: list[str]
) -> None:
    assert refused(tmp_path, names) == patterns
    for pattern in patterns:  # each of them is one set, and together they are all
        (files,) = expand(tmp_path / pattern)
        refuse_several_splits(files, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["train-0.tar", "train-1.tar"],
        ["part-a-0.tar", "part-b-0.tar", "n01440764.tar"],
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        ["train/a-0.tar", "train/b-0.tar"],
        ["one.zip"],
    ],
)
def test_parts_of_one_set_are_one_set(tmp_path: Path, names: list[str]) -> None:
    assert refused(tmp_path, names) == []


def test_sets_that_no_pattern_tells_apart_are_named_by_a_file(tmp_path: Path) -> None:
    names = [f"{number:0120d}{split}{number}.tar" for split in ("", "-val-") for number in range(2)]
    assert [one for one in refused(tmp_path, names) if "in a folder of their own" in one or names[2][-9:] in one]
