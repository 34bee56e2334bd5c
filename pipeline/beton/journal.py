"""Journal of a conversion: a file next to the unfinished `.beton`, from which the next conversion resumes."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_FORMAT = "simsiam beton journal 3"


class Page(NamedTuple):
    """A complete page of a `.beton`."""

    crc32: int
    """Checksum of its bytes."""
    position: int
    """Images of the source that were done when it was full, skipped ones included."""
    images: list[list[int]]
    """Height, width, label and bytes of each of its images, in order."""
    skipped: list[tuple[int, str]]
    """Index in the source and reason of the images skipped since the page before."""
    remarks: list[tuple[int, str]]
    """Index in the source of images with a remark since the page before, each with one."""


class Journal:
    """A line with the key of the conversion, then a line of JSON for each complete page.

    The file is created with the first page: if it exists, there is something to resume.
    """

    def __init__(self, path: Path, key: Mapping[str, str]) -> None:
        """Read the journal at `path`, if there is one; remove it if its key is another one.

        The values of `key` are all that the bytes of the `.beton` depend on, its keys say what they are.
        """
        self.path = path
        self.pages: list[Page] = []
        """The pages written before."""
        self.refused = ""
        """Why the journal that was found can't be resumed; empty if it can, or if there was none."""
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
    def length(self) -> int:
        """Number of pages in the file."""
        return len(self._ends) - 1

    def keep(self, count: int) -> None:
        """Drop all pages but the first `count`."""
        del self.pages[count:], self._ends[count + 1 :]
        if count:
            os.ftruncate(self._open(), self._ends[-1])
        else:
            self.remove()

    def add(self, page: Page) -> None:
        """Append a page that has been written."""
        line = json.dumps(page, separators=(",", ":")).encode() + b"\n"
        self._append(line if self.length else self._head + line)
        self._ends.append(self._ends[-1] + len(line))

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file and keep it for the next conversion."""
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
    """Return a sentence on what differs between `key` and the first line of a journal."""
    try:
        found = json.loads(head)["key"]
        changed = [name for name in key if found[name] != key[name]]
    except (ValueError, TypeError, KeyError):
        changed = []
    return f"{', '.join(changed)} changed in between" if changed else "its journal is damaged or of another version"


def _legible_page(line: bytes) -> Page | None:
    """Return the page of a line, or None if a crash has left the line incomplete."""
    try:
        crc32, position, images, skipped, remarks = json.loads(line)
        return Page(crc32, position, images, [(i, reason) for i, reason in skipped], [(i, text) for i, text in remarks])
    except (ValueError, TypeError):
        return None
