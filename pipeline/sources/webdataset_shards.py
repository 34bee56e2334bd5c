"""WebDataset shards: which members are images, and the class that `KEY.cls` gives each."""

import itertools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.paths import printable_path
from simsiam.pipeline.source import MOST_CLASSES

_LONGEST_CLASS = 32  # bytes of a .cls file: a number


class Samples(NamedTuple):
    """The images of all shards, in their order."""

    images: npt.NDArray[np.int64]
    """Index of the member, (n,)."""
    labels: npt.NDArray[np.int64]
    """Class of each, (n,); -1 where there is none."""
    classes: list[str]
    """0, 1, … up to the highest class, since shards have no class names."""
    broken: list[tuple[str, str]]
    """Name and reason of images that are skipped."""


def read_samples(
    tars: Sequence[Path],
    names: Sequence[bytes],
    tar_of: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    images: npt.NDArray[np.int64],
) -> Samples:
    """Find the class of each of the members `images`; warn of `.cls` files that contain no class number.

    The members are in the order of the tars. A sample is the members of a shard whose names, with their folder, agree
    up to the first dot (WebDataset's rule); but `a.1.jpg` has the class of `a.1.cls` if there is one. If a sample has
    `a.jpg`, another image such as `a.mask.png` without a class of its own is not its picture, and is skipped.
    """
    kept, labels, broken, all_unclear = [], [], [], []
    for tar, group in itertools.groupby(images.tolist(), lambda member: int(tar_of[member])):
        first, last = np.searchsorted(tar_of, [tar, tar + 1])
        classes = (member for member in range(first, last) if names[member].endswith(b".cls"))
        label_of, unclear = _read_classes(tars[tar], classes, names, offsets, lengths)
        all_unclear += unclear
        members = list(group)
        pictures = {_stem(names[member]) for member in members}
        for member in members:
            stem, key = _stem(names[member]), _key(names[member])
            if stem != key and stem not in label_of and key in pictures:
                broken.append((printable_path(names[member]), f"not the picture of its sample, {printable_path(key)}"))
                continue
            kept.append(member)
            labels.append(label_of.get(stem, label_of.get(key, -1)))
    if all_unclear:
        warnings.warn(
            f"{all_unclear[0]} instead of a class number; images whose .cls file contains no class number are"
            f" unlabelled: {len(all_unclear):,}.",
            stacklevel=2,
        )
    return Samples(
        np.array(kept, np.int64),
        np.array(labels, np.int64),
        [str(label) for label in range(max(labels, default=-1) + 1)],
        broken,
    )


def _read_classes(
    tar: Path,
    members: Iterable[int],
    names: Sequence[bytes],
    offsets: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> tuple[dict[bytes, int], list[str]]:
    """Read the `.cls` files of a tar; return the class by name without ending, and a note on each without a number."""
    label_of, unclear = {}, []
    with tar.open("rb", buffering=0) as file:
        for member in members:
            file.seek(int(offsets[member]))
            text = file.read(min(int(lengths[member]), _LONGEST_CLASS))
            if text.strip().isdigit() and int(text) < MOST_CLASSES:
                label_of[_stem(names[member])] = int(text)
            elif text.strip() != b"-1":  # our own mark of unlabelled images
                unclear.append(f"{printable_path(names[member])} holds {text!r}")
    return label_of, unclear


def _stem(name: bytes) -> bytes:
    return name.rpartition(b".")[0]


def _key(name: bytes) -> bytes:
    folder, slash, file = name.rpartition(b"/")
    return folder + slash + file.partition(b".")[0]
