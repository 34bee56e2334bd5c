"""Paths: `~` as they enter, a compact list of many as bytes, and their form for messages."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np


def expand_home(path: str | Path) -> Path:
    """Return a path with a leading `~` or `~NAME` replaced by that user's home folder, as a shell does.

    Where there is no such user, the path is a name that starts with `~`, and stays as it is.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


class PathList(Sequence[bytes]):
    """Many paths in one bytes object: ImageNet's take 50 MB, instead of 90 MB as a list, and pickle at once."""

    def __init__(self, paths: Iterable[bytes] = (), *, joined: bytes | None = None) -> None:
        """Take single paths, or all of them `joined`: each followed by a zero byte, which no path can contain."""
        self.joined = b"".join(path + b"\0" for path in paths) if joined is None else joined
        self._ends = np.flatnonzero(np.frombuffer(self.joined, np.uint8) == 0)

    def __len__(self) -> int:
        """Number of paths."""
        return len(self._ends)

    # Slices aren't supported: nobody needs them.
    def __getitem__(self, index: int) -> bytes:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return path `index`; negative indices count from the end."""
        index = range(len(self))[index]
        return self.joined[self._ends[index - 1] + 1 if index else 0 : self._ends[index]]

    def __iter__(self) -> Iterator[bytes]:
        """Yield the paths in order."""
        return iter(self.joined.split(b"\0")[:-1])


def printable_path(path: bytes) -> str:
    """Return a path as text that can be printed and stored anywhere: bytes that aren't UTF-8 become `\\xNN`."""
    return path.decode("utf-8", "backslashreplace")
