"""Atomic writing: a file appears under its name only when it is complete, even after a crash or a power cut."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; at the end of the block it is flushed to the disk and renamed to `path`.

    Until then it is called `NAME.PID.part`, so that processes that write the same file at once don't mix; the last one
    wins. Missing folders are created. If the block raises, the temporary file is removed, and an older file at `path`
    is left as it is.

    Raises OSError that names `path` when it can't be written, for example on a full disk.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        # On a full disk PyTorch's writer fails a second time while it cleans up, and raises that second error.
        cause = error if isinstance(error, OSError) or not isinstance(error, Exception) else error.__context__
        if isinstance(cause, OSError) and cause.strerror:
            # Python names the temporary file, or no file at all when the disk is full.
            raise OSError(cause.errno, f"Can't write {path}: {cause.strerror}") from None
        raise
    sync_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8, as `open_atomically` does."""
    with open_atomically(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
