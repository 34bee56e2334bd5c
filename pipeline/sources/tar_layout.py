"""Layout of one or many tars: ImageNet's, WebDataset's or a folder's."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import PathList, printable_path
from simsiam.pipeline.progress import Progress
from simsiam.pipeline.sources.archive_layout import find_classes, find_images
from simsiam.pipeline.sources.imagenet_devkit import refuse_devkit
from simsiam.pipeline.sources.tar_images import TarImages
from simsiam.pipeline.sources.tar_index import TarIndex, index_tar
from simsiam.pipeline.sources.webdataset_shards import read_samples
from simsiam.pipeline.worker_count import available_cores
from simsiam.pipeline.worker_pool import ordered_map


class _Members(NamedTuple):
    """The members of all tars, joined."""

    names: list[bytes]
    tar_of: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    refused: list[tuple[bytes, str]]


def open_tars(tars: Sequence[Path], devkit: Path | None, progress: Progress | None, folder: bytes = b"") -> TarImages:
    """List the tars, several at a time, and find the images' classes. Nothing is unpacked.

    - Tars in a tar are ImageNet's training set: each is a class.
    - `ILSVRC2012_val_00000001.JPEG` and so on are its validation set: their classes come from `devkit`.
    - With `.cls` files it is WebDataset: `KEY.cls` contains the class of `KEY.jpg` as a number, see
      `webdataset_shards`.
    - Otherwise it is a folder: the folders of the first level, below those that all images share, are the classes.

    With `folder`, only what lies in this folder of the tars is taken.

    Raises UsageError when a tar is damaged, there is no image in them, or their folders are splits, and MissingError
    when the devkit is missing.
    """
    indices = _index_all([(tar, 0, None, "") for tar in tars], progress)
    if any(name.endswith(b".tar") for index in indices for name in index.names):
        tars, indices = _open_inner(tars, indices, progress)
    members = _join(indices)
    shards = any(name.endswith(b".cls") for name in members.names)
    used = (b".cls",) if shards else ()
    found = find_images(tars, members.names, members.tar_of, members.refused, folder, used)
    images, broken = found.members, found.broken
    if shards:
        refuse_devkit(devkit)
        samples = read_samples(tars, members.names, members.tar_of, members.offsets, members.lengths, images)
        images, classes, labels = samples.images, samples.classes, samples.labels
        broken = broken + samples.broken
        names = [members.names[index] for index in images]
    else:
        names = [members.names[index] for index in images]
        classes, labels = find_classes(names, tars, devkit)
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
            else:
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
        [refusal for index in indices for refusal in index.refused],
    )
