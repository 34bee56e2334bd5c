"""Files that are no images, counted by ending and told in one line."""

import warnings
from collections import Counter
from collections.abc import Iterable

from simsiam.pipeline.paths import printable_path

_MOST_ENDINGS = 5


def count_endings(names: Iterable[bytes]) -> str:
    """Return how many names have which ending, the most frequent first: `3 .txt, 1 without an ending`."""
    counts = Counter(_ending(name) for name in names)
    shown = [f"{count:,} {ending or 'without an ending'}" for ending, count in counts.most_common(_MOST_ENDINGS)]
    rest = sum(counts.values()) - sum(count for _, count in counts.most_common(_MOST_ENDINGS))
    return ", ".join(shown + [f"{rest:,} others"] * bool(rest))


def tell_other_files(names: list[bytes], where: str) -> None:
    """Warn of the files in `where` that are no images and are skipped; nothing is said if there are none."""
    if names:
        warnings.warn(
            f"{len(names):,} {'file' if len(names) == 1 else 'files'} in {where} with other endings than images have,"
            f" skipped: {count_endings(names)}.",
            stacklevel=2,
        )


def _ending(name: bytes) -> str:
    file = name.rpartition(b"/")[2]
    stem, dot, ending = file.rpartition(b".")
    return f".{printable_path(ending.lower())}" if dot and stem else ""
