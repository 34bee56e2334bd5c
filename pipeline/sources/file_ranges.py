"""Ranges of bytes of several files, read by several processes."""

import os
from collections.abc import Sequence
from pathlib import Path

from simsiam.pipeline.beton.layout import read_exactly


class FileRanges:
    """Files of which one is open at a time, since there may be more than a process may open; each process its own."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._open: tuple[int, int, int] | None = None

    def read(self, file: int, length: int, offset: int) -> bytes:
        """Return `length` bytes at `offset` of file number `file`. Raises OSError, or EOFError where it ends."""
        if self._open is None or self._open[:2] != (os.getpid(), file):
            self._close()
            self._open = os.getpid(), file, os.open(self._files[file], os.O_RDONLY)
        return read_exactly(self._open[2], length, offset)

    def _close(self) -> None:
        if self._open is not None:
            os.close(self._open[2])
            self._open = None

    def __del__(self) -> None:
        self._close()
