"""What a conversion has written so far → a file beside it, from which the next one goes on after a crash."""

import json
import os
from pathlib import Path
from typing import NamedTuple

_FORMAT = "simsiam beton journal 1"


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
    """One line of JSON for each complete page, after a line with the key of the conversion."""

    def __init__(self, path: Path, key: str) -> None:
        """Open the journal at `path`; one with another key is begun anew.

        `key` stands for everything that the bytes of the `.beton` depend on.
        """
        self.path = path
        self.pages: list[Page] = []
        """What was written before a crash."""
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        head = json.dumps({"format": _FORMAT, "key": key}).encode() + b"\n"
        lines = path.read_bytes().splitlines(keepends=True)
        if lines[:1] != [head]:
            lines = []
            os.ftruncate(self._file, 0)
            self._append(head)
        self._ends = [len(head)]
        for line in lines[1:]:
            page = _legible_page(line)
            if page is None:
                break
            self.pages.append(page)
            self._ends.append(self._ends[-1] + len(line))

    def keep(self, count: int) -> None:
        """Forget all pages but the first `count`."""
        assert self._file is not None
        del self.pages[count:], self._ends[count + 1 :]
        os.ftruncate(self._file, self._ends[-1])

    def add(self, page: Page) -> None:
        """Note a page that has been written."""
        self._append(json.dumps(page, separators=(",", ":")).encode() + b"\n")

    def remove(self) -> None:
        """Delete the file."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Leave the file for the next conversion."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, line: bytes) -> None:
        assert self._file is not None
        while line:
            line = line[os.write(self._file, line) :]


def _legible_page(line: bytes) -> Page | None:
    """Return what a line says; None when a crash has left it incomplete."""
    try:
        crc32, position, images, left_out = json.loads(line)
        return Page(crc32, position, images, [(place, reason) for place, reason in left_out])
    except (ValueError, TypeError):
        return None
