"""Listing of the image files below a folder, sorted, with the length and date of each."""

import os
import stat
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.paths import PathList
from simsiam.pipeline.sources.endings import ending_of, is_image_name


@dataclass
class FolderListing:
    """The files of a folder, before any of them is opened. Paths are relative to the folder."""

    paths: PathList = field(default_factory=PathList)
    """Regular files with an image's ending, sorted by path as bytes."""
    file_bytes: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Length of each file, (n,)."""
    modified_ns: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Modification time of each file in nanoseconds, (n,)."""
    unreachable: list[tuple[bytes, str]] = field(default_factory=list)
    """Folders that can't be listed and image names that aren't regular files, each with the reason."""
    other_endings: Counter[str] = field(default_factory=Counter)
    """Number of files by ending, `.txt`, of those whose ending is no image's; nothing else of them is looked at."""
    hidden: int = 0
    """Number of folders, and of files with an image's ending, whose names start with a dot."""


def walk_folder(root: Path) -> FolderListing:
    """List the image files below `root`, including subfolders and targets of symbolic links.

    Hidden names (with a leading dot) are skipped, and counted where they may be images. The order is that of the
    relative paths as bytes, on every file system. A link back to a folder that is being walked is not followed.

    Raises OSError when `root` itself can't be listed.
    """
    listing = FolderListing()
    paths = bytearray()
    file_bytes, modified_ns = array("q"), array("q")
    start = root.stat()
    # Folders being walked, innermost last: relative path with a slash, identity, entries to come.
    stack = [(b"", (start.st_dev, start.st_ino), _sorted_entries(bytes(root), listing))]
    while stack:
        parent, _, entries = stack[-1]
        entry, is_folder = next(entries, (None, False))
        if entry is None:
            stack.pop()
            continue
        path = parent + entry.name
        try:
            if is_folder:
                status = entry.stat()
                identity = (status.st_dev, status.st_ino)
                if all(identity != walked for _, walked, _ in stack):
                    stack.append((path + b"/", identity, _sorted_entries(entry.path, listing)))
            elif not is_image_name(entry.name):
                listing.other_endings[ending_of(entry.name)] += 1
            elif not stat.S_ISREG((status := entry.stat()).st_mode):
                # Opening a named pipe would wait forever.
                listing.unreachable.append((path, "not a regular file"))
            else:
                paths += path + b"\0"
                file_bytes.append(status.st_size)
                modified_ns.append(status.st_mtime_ns)
        except OSError as error:
            listing.unreachable.append((path, error.strerror or str(error)))
    listing.paths = PathList(joined=bytes(paths))
    listing.file_bytes = np.array(file_bytes, np.int64)
    listing.modified_ns = np.array(modified_ns, np.int64)
    return listing


def _sorted_entries(folder: bytes, listing: FolderListing) -> Iterator[tuple[os.DirEntry[bytes], bool]]:
    """Return the visible entries of a folder, each with whether it is a folder, in the order of their full paths.

    Counts the others in `listing`.
    """
    visible = []
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder = _is_folder(entry)
            if not entry.name.startswith(b"."):
                visible.append((entry, is_folder))
            elif is_folder or is_image_name(entry.name):
                listing.hidden += 1
    # In the paths below a folder, a slash follows its name: `a-b/x` comes before `a/x`.
    visible.sort(key=lambda item: item[0].name + (b"/" if item[1] else b""))
    return iter(visible)


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself; stat fails as well, where it is reported
        return False
