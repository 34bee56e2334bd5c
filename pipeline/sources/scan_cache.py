"""Cache of folder scans: image sizes found before, kept on disk, as long as the files don't change."""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.atomic_write import open_atomically
from simsiam.pipeline.paths import PathList
from simsiam.pipeline.sources.folder_walk import FolderListing

_FORMAT = "simsiam scan 2"


def scan_cache_file(root: Path) -> Path:
    """Return the file that the scan of the folder `root` is kept in, below `$XDG_CACHE_HOME` or `~/.cache`.

    Links in `root` are resolved, so that all names of a folder lead to one file. Raises RuntimeError when there is no
    home folder.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG base directory specification says to ignore a relative path.
    folder = given if given.is_absolute() else Path.home() / ".cache"
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return folder / "simsiam" / "scans" / f"{key}.npz"


def load_sizes(root: Path, listing: FolderListing) -> npt.NDArray[np.int32]:
    """Return height and width of the files of `listing` from an earlier scan, int32 (n, 2); 0 if unknown.

    A size is valid as long as the file has the same path below `root`, length and modification time. If the cache is
    missing, damaged or of another version, all sizes are unknown.
    """
    sizes = np.zeros((len(listing.paths), 2), np.int32)
    try:
        with np.load(scan_cache_file(root), allow_pickle=False) as cache:
            if str(cache["format"]) != _FORMAT or cache["root"].tobytes() != os.fsencode(root.resolve()):
                return sizes
            paths = PathList(joined=cache["paths"].tobytes())
            marks = cache["marks"]
            known = cache["sizes"]
    # The ZIP and array readers raise nearly anything on damaged input.
    except Exception:
        return sizes
    if marks.shape != (len(paths), 2) or known.shape != (len(paths), 2):
        return sizes
    row_of = {path: row for row, path in enumerate(paths)}
    row = np.fromiter((row_of.get(path, -1) for path in listing.paths), np.int64, len(listing.paths))
    seen = np.flatnonzero(row >= 0)
    same = seen[(marks[row[seen]] == _marks(listing)[seen]).all(axis=1)]
    sizes[same] = known[row[same]]
    return sizes


def save_sizes(root: Path, listing: FolderListing, sizes: npt.NDArray[np.int32]) -> None:
    """Keep the sizes, int32 (n, 2), of the files of `listing`; those that are 0 stay unknown.

    If the cache can't be written, nothing is kept, and the next scan opens every file again.
    """
    with contextlib.suppress(OSError, RuntimeError):
        file = scan_cache_file(root)
        with open_atomically(file) as stream:
            np.savez(
                stream,
                format=np.array(_FORMAT),
                root=np.frombuffer(os.fsencode(root.resolve()), np.uint8),
                paths=np.frombuffer(listing.paths.joined, np.uint8),
                marks=_marks(listing),
                sizes=sizes,
            )


def _marks(listing: FolderListing) -> npt.NDArray[np.int64]:
    """Return length and modification time of each file, int64 (n, 2)."""
    return np.stack([listing.file_bytes, listing.modified_ns], axis=-1)
