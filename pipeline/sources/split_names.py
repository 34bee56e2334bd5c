"""Splits of a data set, such as train and test, recognised by the names of their files and folders."""

import re
from collections.abc import Sequence

from simsiam.pipeline.errors import UsageError

SPLITS = (
    *("train", "training", "trainval", "val", "valid", "validation", "dev", "test", "testing", "eval", "evaluation"),
    *("holdout", "unlabeled", "unlabelled"),
)
"""Names of splits, in upper or lower case."""

_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLITS)})(?![a-z])")
_WHOLE = re.compile(rf"({'|'.join(SPLITS)})([-_. ]?(\d+|set|data|images))?")


def split_in(name: str) -> str | None:
    """Return the first name of a split that is a word of `name`, in lower case: `val` for `ILSVRC2012_img_val.tar`."""
    found = _WORD.search(name.lower())
    return found[1] if found else None


def refuse_splits_as_classes(classes: Sequence[str], root: str) -> None:
    """Raise UsageError, with the paths to give, when the class folders of `root` are the splits of a data set.

    They are when all have the name of a split, such as `train` or `val2017`, or when several splits are words in the
    names of at least half of them: `train_station` among others is a class.
    """
    splits = {name: split for name in classes if (split := split_in(name))}
    several = len(set(splits.values())) > 1 and 2 * len(splits) >= len(classes)
    if several or (classes and all(_WHOLE.fullmatch(name.lower()) for name in classes)):
        rest = [name for name in classes if name not in splits]
        next_to = f", next to {', '.join(rest)}" if rest else ""
        raise UsageError(
            f"The folders {', '.join(splits)} in {root} are splits of a data set, no classes{next_to};"
            f" give one of them: {', '.join(f'{root}/{name}' for name in splits)}."
        )
