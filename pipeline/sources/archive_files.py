"""Archives of images among the files of a folder, by their endings."""

import os
from pathlib import Path

from simsiam.pipeline.sources.imagenet_devkit import is_devkit

_KIND_OF = {
    ".parquet": "parquet",
    ".zip": "zip",
    **dict.fromkeys((".tar", ".tgz", ".tbz2", ".txz", ".tzst"), "tar"),
    **dict.fromkeys((".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"), "tar"),
}
_DEPTH = 2
"""Folders that archives may be deep in: Hugging Face's lie in `data` or in `default/train`."""


def archive_kind(name: str) -> str | None:
    """Return the kind of archive that a file of this name is: `parquet`, `tar` (also compressed), `zip`, or None."""
    if is_devkit(name):
        return None
    return next((kind for ending, kind in _KIND_OF.items() if name.lower().endswith(ending)), None)


def is_compressed(file: Path) -> bool:
    """Return whether an archive is a compressed tar by its name, which must be unpacked before it can be read."""
    return archive_kind(file.name) == "tar" and file.suffix.lower() != ".tar"


def find_archives(folder: Path) -> dict[str, list[Path]]:
    """Return the archives in a folder, and up to two folders deeper, by kind; each kind sorted by path.

    Hidden names and ImageNet's devkit are none of them. Dangling links are listed only next to others of their kind.
    Raises OSError when `folder` can't be listed.
    """
    found: dict[str, list[Path]] = {}
    folders = [(folder, 0)]
    while folders:
        parent, depth = folders.pop()
        try:
            with os.scandir(parent) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError:
            if parent == folder:
                raise
            continue  # a folder that can't be listed is told where images are looked for
        for entry in visible:
            if entry.is_dir():
                folders += [(parent / entry.name, depth + 1)] * (depth < _DEPTH)
            elif kind := archive_kind(entry.name):
                found.setdefault(kind, []).append(parent / entry.name)
    return {kind: sorted(files) for kind, files in sorted(found.items()) if any(file.is_file() for file in files)}
