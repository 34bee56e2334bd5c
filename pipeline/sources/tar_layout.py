"""Layout of one or many tars: which members are images, and of which class; ImageNet's, WebDataset's or a folder's."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import MissingError, UsageError
from simsiam.pipeline.paths import PathList, printable_path
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.sources.endings import IMAGE_ENDINGS
from simsiam.pipeline.sources.image_folder import classes_and_labels
from simsiam.pipeline.sources.imagenet_devkit import DEVKIT, read_ground_truth, refuse_devkit
from simsiam.pipeline.sources.tar_images import TarImages
from simsiam.pipeline.sources.tar_index import TarIndex, index_tar
from simsiam.pipeline.sources.webdataset_shards import read_samples
from simsiam.pipeline.worker_count import available_cores
from simsiam.pipeline.worker_pool import ordered_map

_ENDINGS = tuple(f".{ending}".encode() for ending in IMAGE_ENDINGS)
_VALIDATION = re.compile(rb"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG")


class _Members(NamedTuple):
    """The members of all tars, joined."""

    names: list[bytes]
    tar_of: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    broken: list[tuple[str, str]]


def open_tars(tars: Sequence[Path], devkit: Path | None, progress: Progress | None) -> TarImages:
    """List the tars, several at a time, and find the images' classes. Nothing is unpacked.

    - Tars in a tar are ImageNet's training set: each is a class.
    - `ILSVRC2012_val_00000001.JPEG` and so on are its validation set: their classes come from `devkit`.
    - With `.cls` files it is WebDataset: `KEY.cls` contains the class of `KEY.jpg` as a number, see
      `webdataset_shards`.
    - Otherwise it is a folder: the folders of the first level, below those that all images share, are the classes.

    Raises UsageError when a tar is damaged or there is no image in them, and MissingError when the devkit is missing.
    """
    indices = _index_all([(tar, 0, None, "") for tar in tars], progress)
    if any(name.endswith(b".tar") for index in indices for name in index.names):
        tars, indices = _open_inner(tars, indices, progress)
    members = _join(indices)
    images = np.array([i for i, name in enumerate(members.names) if name.lower().endswith(_ENDINGS)], np.int64)
    if not len(images):
        raise UsageError(
            f"There is no image in {tars[0]}; images are the files that end in {', '.join(IMAGE_ENDINGS)}."
        )
    names = [members.names[index] for index in images]
    broken = members.broken
    validation = all(_VALIDATION.fullmatch(name) for name in names)
    if not validation:
        refuse_devkit(devkit)
    if validation:
        classes, labels = _validation_classes(names, tars[0], devkit)
    elif any(name.endswith(b".cls") for name in members.names):
        samples = read_samples(tars, members.names, members.tar_of, members.offsets, members.lengths, images)
        images, classes, labels = samples.images, samples.classes, samples.labels
        names = [members.names[index] for index in images]
        broken = broken + samples.broken
    else:
        classes, labels = classes_and_labels(PathList(_below_shared_folder(names)))
    return TarImages(
        tars,
        members.tar_of[images],
        members.offsets[images],
        members.lengths[images],
        PathList(names),
        labels,
        classes,
        broken,
    )


def _index_all(parts: Sequence[tuple[Path, int, int | None, str]], progress: Progress | None) -> list[TarIndex]:
    """List tars, each a file or a part of one; several of them in worker processes."""

    def index(task: int) -> TarIndex | str:
        try:
            return index_tar(*parts[task])
        except UsageError as error:  # raised below, in this process
            return str(error)

    workers = min(available_cores(), len(parts))
    if workers > 1:
        results = ordered_map(index, len(parts), workers, lambda task: str(parts[task][0]))
    else:
        results = map(index, range(len(parts)))
    indices = []
    for result in results:
        if isinstance(result, str):
            raise UsageError(result)
        indices.append(result)
        if progress:
            progress(len(indices), len(parts))
    return indices


def _open_inner(
    tars: Sequence[Path], indices: list[TarIndex], progress: Progress | None
) -> tuple[list[Path], list[TarIndex]]:
    """List the tars in tars; their members get the names CLASS/NAME."""
    parts, folders, refused = [], [], []
    for tar, index in zip(tars, indices, strict=True):
        refused += index.refused
        for name, offset, length in zip(index.names, index.offsets.tolist(), index.lengths.tolist(), strict=True):
            if name.endswith(b".tar"):
                parts.append((tar, offset, offset + length, printable_path(name)))
                folders.append(name.removesuffix(b".tar").rpartition(b"/")[2])
            elif name.lower().endswith(_ENDINGS):
                refused.append((name, "an image next to tars of classes has no class"))
    inner = [
        index._replace(
            names=PathList(folder + b"/" + name for name in index.names),
            refused=[(folder + b"/" + name, reason) for name, reason in index.refused],
        )
        for folder, index in zip(folders, _index_all(parts, progress), strict=True)
    ]
    inner[0].refused[:0] = refused
    return [tar for tar, *_ in parts], inner


def _join(indices: list[TarIndex]) -> _Members:
    tar_of = [np.full(len(index.names), number, np.int32) for number, index in enumerate(indices)]
    return _Members(
        [name for index in indices for name in index.names],
        np.concatenate(tar_of),
        np.concatenate([index.offsets for index in indices]),
        np.concatenate([index.lengths for index in indices]),
        [(printable_path(name), reason) for index in indices for name, reason in index.refused],
    )


def _validation_classes(names: list[bytes], tar: Path, devkit: Path | None) -> tuple[list[str], npt.NDArray[np.int64]]:
    if devkit is None:
        next_to_it = (tar.with_name(f"{DEVKIT}.tar.gz"), tar.with_name(DEVKIT))
        devkit = next((kit for kit in next_to_it if kit.exists()), None)
    if devkit is None:
        raise MissingError(
            f"{tar} holds ImageNet's validation images, whose classes are in the development kit: put"
            f" {DEVKIT}.tar.gz next to it, or give its path.",
            argument="devkit",
        )
    truth = read_ground_truth(devkit)
    numbers = [int(found[1]) for name in names if (found := _VALIDATION.fullmatch(name))]
    if max(numbers) > len(truth.labels) or min(numbers) < 1:
        raise UsageError(f"{tar} holds image {max(numbers)}, but {devkit} has the classes of {len(truth.labels)}.")
    return truth.classes, np.array([truth.labels[number - 1] for number in numbers], np.int64)


def _below_shared_folder(names: list[bytes]) -> list[bytes]:
    """Remove the folders that all names share."""
    # Folders that the first and the last in order share are shared by all between.
    shared = os.path.commonpath([name.rpartition(b"/")[0] for name in (min(names), max(names))])
    cut = len(shared) + 1 if shared else 0
    return [name[cut:] for name in names]
