"""The members of WebDataset shards → which are images, and the class that `KEY.cls` gives each."""

import itertools
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.paths import printable_path

_LONGEST_CLASS = 32  # bytes of a .cls file: a number
_MOST_CLASSES = 1 << 20  # as a .beton may have


class Samples(NamedTuple):
    """The images of all shards, in their order."""

    images: npt.NDArray[np.int64]
    """Which members they are, (n,)."""
    labels: npt.NDArray[np.int64]
    """Class of each, (n,); -1 where there is none."""
    classes: list[str]
    """0, 1, … up to the highest class, as there are no names in a shard."""
    broken: list[tuple[str, str]]
    """Name and reason of images that were left out."""


def read_samples(
    tars: Sequence[Path],
    names: Sequence[bytes],
    tar_of: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    images: npt.NDArray[np.int64],
) -> Samples:
    """Find the class of each of the members `images`; the members of a tar follow each other. Warns of unclear classes.

    A sample is what shares a shard and a name up to its first dot, the folder being part of the name (WebDataset's
    rule); but `a.1.jpg` takes the class of `a.1.cls` where there is one. Beside `a.jpg`, an image such as `a.mask.png`
    that has no class of its own belongs to the sample without being its picture, and is left out.
    """
    kept, labels, broken, all_unclear = [], [], [], []
    for tar, group in itertools.groupby(images.tolist(), lambda place: int(tar_of[place])):
        first, last = np.searchsorted(tar_of, [tar, tar + 1])
        classes = (place for place in range(first, last) if names[place].endswith(b".cls"))
        label_of, unclear = _read_classes(tars[tar], classes, names, offsets, lengths)
        all_unclear += unclear
        places = list(group)
        pictures = {_stem(names[place]) for place in places}
        for place in places:
            stem, key = _stem(names[place]), _key(names[place])
            if stem != key and stem not in label_of and key in pictures:
                broken.append((printable_path(names[place]), f"not the picture of its sample, {printable_path(key)}"))
                continue
            kept.append(place)
            labels.append(label_of.get(stem, label_of.get(key, -1)))
    if all_unclear:
        warnings.warn(
            f"{all_unclear[0]} where a class number belongs; {len(all_unclear):,} such .cls"
            f" file{'s' * (len(all_unclear) != 1)} in all, whose images get no class.",
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
    places: Iterable[int],
    names: Sequence[bytes],
    offsets: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> tuple[dict[bytes, int], list[str]]:
    """Read the `.cls` files of a tar: the class by the name without its ending, and what holds no number."""
    label_of, unclear = {}, []
    with tar.open("rb", buffering=0) as file:
        for place in places:
            file.seek(int(offsets[place]))
            text = file.read(min(int(lengths[place]), _LONGEST_CLASS))
            if text.strip().isdigit() and int(text) < _MOST_CLASSES:
                label_of[_stem(names[place])] = int(text)
            elif text.strip() != b"-1":  # our own mark of images without one
                unclear.append(f"{printable_path(names[place])} holds {text!r}")
    return label_of, unclear


def _stem(name: bytes) -> bytes:
    return name.rpartition(b".")[0]


def _key(name: bytes) -> bytes:
    folder, slash, file = name.rpartition(b"/")
    return folder + slash + file.partition(b".")[0]
