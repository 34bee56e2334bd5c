"""Layout of archives: which members are images, and of which class."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import MissingError, UsageError
from simsiam.pipeline.paths import PathList, printable_path
from simsiam.pipeline.sources.endings import (
    IMAGE_ENDINGS,
    count_endings,
    is_image_name,
    named_endings,
    warn_of_other_files,
)
from simsiam.pipeline.sources.image_folder import classes_and_labels
from simsiam.pipeline.sources.imagenet_devkit import DEVKIT, read_ground_truth, refuse_devkit
from simsiam.pipeline.sources.split_names import refuse_splits_as_classes

_VALIDATION = re.compile(rb"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG")


class Images(NamedTuple):
    """The images among the members."""

    members: npt.NDArray[np.int64]
    """Index of the member, ascending, (n,)."""
    broken: list[tuple[str, str]]
    """Name and reason of images that are skipped."""


def find_images(
    archives: Sequence[Path],
    names: Sequence[bytes],
    archive_of: npt.NDArray[np.int32],
    refused: Sequence[tuple[bytes, str]],
    folder: bytes = b"",
    used: tuple[bytes, ...] = (),
) -> Images:
    """Choose the images among all members; the others are told in one line, by ending.

    Args:
        archives: For messages.
        names: Of the members of all archives, in their order.
        archive_of: Number of each member's archive, ascending, (m,).
        refused: Name and reason of members that can't be read.
        folder: Take only what lies in this folder of the archive; empty for all.
        used: Endings of files that are no images, but are read.

    Of several members of one archive with the same name the last one counts, as when it is unpacked. Raises UsageError
    when there is no image.
    """
    inside = folder + b"/" if folder else b""
    where = str(archives[0]) + (f" and {len(set(archives)) - 1:,} more" if len(set(archives)) > 1 else "")
    where = f"the folder {printable_path(folder)} of {where}" if folder else where
    found, others = [], []
    for member, name in enumerate(names):
        if name.startswith(inside):
            if is_image_name(name):
                found.append(member)
            elif not name.endswith(used or (b"/",)):
                others.append(name)
    broken = [
        (printable_path(name), reason) for name, reason in refused if name.startswith(inside) and is_image_name(name)
    ]
    others += [name for name, _ in refused if name.startswith(inside) and not is_image_name(name)]
    if not found and broken:
        raise UsageError(
            f"None of the {len(broken):,} images in {where} can be read; the first is {': '.join(broken[0])}."
        )
    if not found:
        there = (
            f"only {len(others):,} other files ({named_endings(count_endings(others))})" if others else "no file at all"
        )
        raise UsageError(
            f"There is no image in {where}, {there}; images are the files that end in {', '.join(IMAGE_ENDINGS)}."
        )
    warn_of_other_files(count_endings(others), where)
    members = np.array(found, np.int64)
    replaced = _replaced(members, names, archive_of)
    broken += [(printable_path(names[member]), "another file of the same name follows") for member in replaced]
    return Images(np.setdiff1d(members, replaced) if replaced else members, broken)


def _replaced(members: npt.NDArray[np.int64], names: Sequence[bytes], archive_of: npt.NDArray[np.int32]) -> list[int]:
    """Return the members whose name a later member of the same archive has."""
    replaced, first = [], 0
    of = archive_of[members]
    while first < len(members):
        end = int(np.searchsorted(of, of[first], side="right"))
        group = members[first:end].tolist()
        if len({names[member] for member in group}) < len(group):
            last = {names[member]: member for member in group}
            replaced += [member for member in group if last[names[member]] != member]
        first = end
    return replaced


def find_classes(
    names: list[bytes], archives: Sequence[Path], devkit: Path | None
) -> tuple[Sequence[str], npt.NDArray[np.int64]]:
    """Return class names and the label of each image.

    `ILSVRC2012_val_00000001.JPEG` and so on are ImageNet's validation set: their classes come from `devkit`. Otherwise
    the folders of the first level, below those that all images share, are the classes.

    Raises UsageError when these are the splits of a data set, and MissingError when the devkit is missing.
    """
    if all(_VALIDATION.fullmatch(name) for name in names):
        return _validation_classes(names, archives[0], devkit)
    refuse_devkit(devkit)
    shared = _shared_folder(names)
    classes, labels = classes_and_labels(PathList(name[len(shared) :] for name in names))
    archive = archives[0] if len(set(archives)) == 1 else archives[0].with_name(f"*{archives[0].suffix}")
    refuse_splits_as_classes(classes, f"{archive}/{printable_path(shared)}".rstrip("/"))
    return classes, labels


def _validation_classes(
    names: list[bytes], archive: Path, devkit: Path | None
) -> tuple[list[str], npt.NDArray[np.int64]]:
    if devkit is None:
        next_to_it = (archive.with_name(f"{DEVKIT}.tar.gz"), archive.with_name(DEVKIT))
        devkit = next((kit for kit in next_to_it if kit.exists()), None)
    if devkit is None:
        raise MissingError(
            f"{archive} holds ImageNet's validation images, whose classes are in the development kit: put"
            f" {DEVKIT}.tar.gz next to it, or give its path.",
            argument="devkit",
        )
    truth = read_ground_truth(devkit)
    numbers = [int(found[1]) for name in names if (found := _VALIDATION.fullmatch(name))]
    if max(numbers) > len(truth.labels) or min(numbers) < 1:
        raise UsageError(f"{archive} holds image {max(numbers)}, but {devkit} has the classes of {len(truth.labels)}.")
    return truth.classes, np.array([truth.labels[number - 1] for number in numbers], np.int64)


def _shared_folder(names: list[bytes]) -> bytes:
    """Return the folder that all names share, with a slash; empty if there is none."""
    # Folders that the first and the last in order share are shared by all between.
    shared = os.path.commonpath([name.rpartition(b"/")[0] for name in (min(names), max(names))])
    return shared + b"/" if shared else b""
