"""Patterns of files as a shell knows them: `*`, `?`, `[…]`, `{0000..0146}` and `{a,b}`."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from simsiam.pipeline.sources.member_names import is_hidden

_WILD = re.compile(r"[*?\[]")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")


def is_pattern(path: Path) -> bool:
    """Return whether a path has a sign that would be expanded."""
    return any(sign.search(str(path)) for sign in (_WILD, _RANGE, _CHOICE))


def expand(path: Path) -> list[list[Path]]:
    """Return the files that match, by alternative: braces expand in their order, wildcards in sorted order.

    Without braces there is one alternative; what has no wildcard stands for itself, whether it exists or not. The
    folders before the first that doesn't exist are no pattern, whatever their names.
    """
    folder = path.parent if path.parent.is_dir() else None
    alternatives = (
        [folder / name for name in _expand_braces(path.name)] if folder else map(Path, _expand_braces(str(path)))
    )
    return [_matching(each) for each in alternatives]


def _matching(pattern: Path) -> list[Path]:
    """Return what a shell would: hidden names only if the pattern starts with a dot."""
    root = next(folder for folder in pattern.parents if folder.is_dir())
    rest = pattern.relative_to(root)
    if not _WILD.search(str(rest)):
        return [pattern]
    hidden = any(part.startswith(".") for part in rest.parts)
    found = root.glob(str(rest))
    return sorted(path for path in found if hidden or not is_hidden(bytes(path.relative_to(root))))


def _expand_braces(pattern: str) -> Sequence[str]:
    found = _RANGE.search(pattern)
    if found:
        first, last = found[1], found[2]
        step = 1 if int(first) <= int(last) else -1
        parts = [str(number).zfill(len(first)) for number in range(int(first), int(last) + step, step)]
    elif found := _CHOICE.search(pattern):
        parts = found[1].split(",")
    else:
        return [pattern]
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return list(itertools.chain.from_iterable(_expand_braces(head + part + tail) for part in parts))
