import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from simsiam.pipeline.sources.fingerprint import fingerprint
from simsiam.pipeline.sources.image_folder import ImageFolder


class Images(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.labels)


def images(
    count: int = 3000,
    *,
    side: int = 32,
    label: int = 0,
    classes: Sequence[str] = ("a", "b"),
    name: Callable[[int], str] = lambda index: f"root/a/{index}.jpg",
) -> Images:
    """A source whose last image has the given height and label."""
    sizes, labels = np.full((count, 2), 32, np.int32), np.zeros(count, np.int64)
    sizes[-1, 0], labels[-1] = side, label
    return Images(sizes=sizes, labels=labels, classes=classes, name=name)


def of(**changes) -> str:
    return fingerprint(images(**changes))  # type: ignore[arg-type]


def test_same_images_have_the_same_fingerprint_wherever_they_lie(pictures: ImageFolder, tmp_path: Path) -> None:
    shutil.copytree(pictures.root, tmp_path / "moved")
    assert fingerprint(pictures) == fingerprint(ImageFolder(tmp_path / "moved"))


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 2999},
        {"side": 33},
        {"label": 1},
        {"classes": ("a", "c")},
        {"classes": ("a",)},
        {"name": lambda index: f"root/a/{index}.jpg" if index else "root/a/other.jpg"},
        {"name": lambda index: f"root/a/{index}.jpg" if index < 2999 else "root/a/other.jpg"},
    ],
    ids=["count", "size", "label", "class", "classes", "first name", "last name"],
)
def test_other_images_have_another_fingerprint(changes: dict) -> None:
    assert of(**changes) != of()


def test_types_of_the_arrays_play_no_part() -> None:
    source = images()
    before = fingerprint(source)  # type: ignore[arg-type]
    source.sizes, source.labels = source.sizes.astype(np.int64), source.labels.astype(np.int16)
    assert fingerprint(source) == before  # type: ignore[arg-type]


def test_million_images_are_asked_for_few_names() -> None:
    asked: list[int] = []
    of(count=1_000_000, name=lambda index: asked.append(index) or "x.jpg")
    assert len(asked) == 1000 and asked[0] == 0 and asked[-1] == 999_999
