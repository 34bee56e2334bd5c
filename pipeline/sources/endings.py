"""Endings of the names of image files, and a sentence on the files that have others: nothing is ignored in silence."""

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping

from PIL import Image

from simsiam.pipeline.image_formats import FORMATS
from simsiam.pipeline.paths import printable_path

_MOST_NAMED = 8
"""Endings that the sentence names; the rest is summed up."""


def _image_endings() -> tuple[str, ...]:
    # Pillow opens MPO, a JPEG with more behind it, as JPEG.
    registered = Image.registered_extensions().items()
    return tuple(sorted(ending.removeprefix(".") for ending, format in registered if format in (*FORMATS, "MPO")))


IMAGE_ENDINGS = _image_endings()
"""Endings of images, in lower case and without the dot: all that Pillow knows for `image_formats.FORMATS`."""

_ENDINGS = frozenset(ending.encode() for ending in IMAGE_ENDINGS)


def is_image_name(name: bytes) -> bool:
    """Return whether a file's name, or path, ends like an image's, in upper or lower case."""
    _, dot, ending = name.rpartition(b".")
    return bool(dot) and ending.lower() in _ENDINGS


def ending_of(name: bytes) -> str:
    """Return the ending of a name or path with its dot, printable and in lower case; empty if it has none."""
    stem, dot, ending = name.rpartition(b"/")[2].rpartition(b".")
    return printable_path(dot + ending).lower() if stem and ending else ""


def count_endings(names: Iterable[bytes]) -> Counter[str]:
    """Return how many of the names have each ending, as `ending_of` gives it."""
    return Counter(map(ending_of, names))


def named_endings(endings: Mapping[str, int]) -> str:
    """Return the number of files by ending in words, the most frequent first: `8 .txt, 4 .csv`."""
    most = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    named = [f"{count:,} {ending or 'without an ending'}" for ending, count in most[:_MOST_NAMED]]
    if rest := sum(count for _, count in most[_MOST_NAMED:]):
        named.append(f"{rest:,} of {len(most) - _MOST_NAMED} more endings")
    return ", ".join(named)


def warn_of_other_files(endings: Mapping[str, int], where: str, hidden: int = 0) -> None:
    """Warn of the files in `where` that aren't read, in one sentence: `12 files …: 8 .txt, 4 .csv`.

    `endings` has the number of files by ending (`count_endings`); `hidden` is the number of names with a leading dot
    that would be read without it. No warning if both are empty.
    """
    parts = []
    if total := sum(endings.values()):
        files = "file of another ending is" if total == 1 else "files of other endings are"
        parts.append(f"{total:,} {files} not read: {named_endings(endings)}")
    if hidden:
        parts.append(f"{hidden:,} hidden {'file or folder is' if hidden == 1 else 'files or folders are'} not read")
    if parts:
        warnings.warn(f"{where}: {'; '.join(parts)}", stacklevel=3)
