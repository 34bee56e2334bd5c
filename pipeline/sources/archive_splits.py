"""Archives that lie side by side but are several sets: `train-*.parquet` next to `test-*.parquet`."""

import fnmatch
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.split_names import split_in

_NUMBERED = re.compile(r"(.*?)-\d+-of-\d+\b")
_LONGEST_PATTERN = 200  # characters


def refuse_several_splits(files: Sequence[Path], root: Path) -> None:
    """Raise UsageError when the archives below `root` are of several splits, with the pattern of each.

    The split of a file is the word for one in its name, else what stands before its number in a name such as
    `extra-00000-of-00002`, else the word in the names of its folders, the nearest first. Files of which nothing says it
    are a split of their own where others have one.
    """
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_split_of(file, root), []).append(file)
    if len(groups) < 2:
        return
    patterns = [_pattern(group, files, root) for group in groups.values()]
    counts = (f"{len(group):,} of {split or 'no split'}" for split, group in groups.items())
    raise UsageError(
        f"The {len(files):,} archives in {root} are several sets ({', '.join(counts)}); give one of them:"
        f" {', '.join(patterns)}. Braces join sets: '{{A,B}}'."
    )


def _split_of(file: Path, root: Path) -> str:
    numbered = _NUMBERED.match(file.name)
    folders = file.relative_to(root).parts[-2::-1]
    named = (split for folder in folders if (split := split_in(folder)))
    return split_in(file.name) or (numbered[1] if numbered else next(named, ""))


def _pattern(group: Sequence[Path], files: Sequence[Path], root: Path) -> str:
    """Return what stands for these files and no other: a folder, a file, or a pattern in quotes."""
    others = set(files) - set(group)
    folder = Path(os.path.commonpath([file.parent for file in group]))
    if folder != root and not any(file.is_relative_to(folder) for file in others):
        return str(folder)
    if len(group) == 1:
        return str(group[0])
    if any(file.parent != folder for file in group):
        return f"the {len(group):,} like {group[0]}, in a folder of their own"
    names, neighbours = [file.name for file in group], [file.name for file in others if file.parent == folder]
    for pattern in _candidates(names):
        if len(pattern) < _LONGEST_PATTERN and not fnmatch.filter(neighbours, pattern):
            return f"'{folder / pattern}'"
    return f"the {len(group):,} like {group[0]}, in a folder of their own"


def _candidates(names: Sequence[str]) -> Iterator[str]:
    prefix = _shared_start(names)
    tail = _shared_start([name[len(prefix) :][::-1] for name in names])[::-1]
    # All digits of a number are one star's: `train-*.tar`, not `train-000*.tar`.
    yield f"{prefix.rstrip('0123456789')}*{Path(names[0]).suffix}"
    yield f"{prefix}*{tail}"
    if split := split_in(names[0]):
        yield f"*{split}*{Path(names[0]).suffix}"
    yield f"{{{','.join(names)}}}"


def _shared_start(names: Sequence[str]) -> str:
    # What the first and the last in order share, all between share.
    pairs = zip(min(names), max(names), strict=False)
    return "".join(one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
