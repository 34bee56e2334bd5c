"""A path and what belongs in it → a file that is whole whenever it is there, even after a crash or a power cut."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; at the end of the block its content is flushed to the disk and takes the name `path`.

    Until then it lies beside as `NAME.PID.part`, so that processes that write the same file at once don't mix; the
    last one stays. Its folder is made where there is none. When the block raises, nothing is left, and what was at
    `path` before stays.

    Raises OSError that names `path` when it can't be written, such as on a full disk.
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
        # PyTorch's own writer stumbles over a full disk once more, and raises what it finds then.
        cause = error if isinstance(error, OSError) or not isinstance(error, Exception) else error.__context__
        if isinstance(cause, OSError) and cause.strerror:
            # What Python names is the temporary file, or, of a full disk, none at all.
            raise OSError(cause.errno, f"Can't write {path}: {cause.strerror}") from None
        raise
    sync_folder(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a whole text file, UTF-8, as `open_atomically` does."""
    with open_atomically(path) as file:
        file.write(text.encode())


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
