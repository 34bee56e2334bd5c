"""What a conversion has written so far → a file beside it, from which the next one goes on after a crash."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_FORMAT = "simsiam beton journal 2"


class Page(NamedTuple):
    """A page of a `.beton` that is complete."""

    crc32: int
    """Checksum of its bytes."""
    position: int
    """Images of the source that were done when it was full, left out ones included."""
    images: list[list[int]]
    """Height, width, label and bytes of each of its images, in order."""
    left_out: list[tuple[int, str]]
    """Place in the source and reason of the images left out since the page before."""


class Journal:
    """One line of JSON for each complete page, after a line with the key of the conversion.

    The file is made with the first page, so where it is, there is something to go on with.
    """

    def __init__(self, path: Path, key: Mapping[str, str]) -> None:
        """Read the journal at `path`, if there is one; one with another key is removed.

        The values of `key` stand for everything that the bytes of the `.beton` depend on, its names say what.
        """
        self.path = path
        self.pages: list[Page] = []
        """What was written before a crash."""
        self.refused = ""
        """Why the journal that was found can't be gone on with; empty when it can, or when there was none."""
        self._head = json.dumps({"format": _FORMAT, "key": dict(key)}).encode() + b"\n"
        self._ends = [len(self._head)]
        self._file: int | None = None
        if not path.exists():
            return
        head, *lines = path.read_bytes().splitlines(keepends=True) or [b""]
        if head != self._head:
            self.refused = _difference(head, key)
            path.unlink()
            return
        for line in lines:
            page = _legible_page(line)
            if page is None:
                break
            self.pages.append(page)
            self._ends.append(self._ends[-1] + len(line))

    @property
    def noted(self) -> int:
        """Number of pages in the file."""
        return len(self._ends) - 1

    def keep(self, count: int) -> None:
        """Forget all pages but the first `count`."""
        del self.pages[count:], self._ends[count + 1 :]
        if count:
            os.ftruncate(self._open(), self._ends[-1])
        else:
            self.remove()

    def add(self, page: Page) -> None:
        """Note a page that has been written."""
        line = json.dumps(page, separators=(",", ":")).encode() + b"\n"
        self._append(line if self.noted else self._head + line)
        self._ends.append(self._ends[-1] + len(line))

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the file for the next conversion."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        return self._file

    def _append(self, line: bytes) -> None:
        file = self._open()
        while line:
            line = line[os.write(file, line) :]


def _difference(head: bytes, key: Mapping[str, str]) -> str:
    """Say what the key in the first line of a journal has otherwise."""
    try:
        found = json.loads(head)["key"]
        changed = [name for name in key if found[name] != key[name]]
    except (ValueError, TypeError, KeyError):
        changed = []
    return f"{', '.join(changed)} changed in between" if changed else "its journal is damaged or of another version"


def _legible_page(line: bytes) -> Page | None:
    """Return what a line says; None when a crash has left it incomplete."""
    try:
        crc32, position, images, left_out = json.loads(line)
        return Page(crc32, position, images, [(place, reason) for place, reason in left_out])
    except (ValueError, TypeError):
        return None
