"""Labels of a test set in the numbering of another set's classes, matched by name."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.source import Source

_MOST_NAMES = 10
"""Classes that a message names."""


@dataclass(frozen=True)
class AlignedLabels:
    """The labels of a test set, as those of the training set."""

    labels: torch.Tensor
    """int64 (n,): of each test image, the index of its class in `train.classes`."""
    missing: list[str]
    """Classes that have training images, but no test image."""


def align_classes(train: Source, test: Source, train_name: str, test_name: str) -> AlignedLabels:
    """Match the classes of two labelled sources by name; the names of the sources are for messages.

    Only classes that have an image count: a folder without one, or a name that a file lists alone, is none. The test
    set may lack some of the training set's classes, with a warning that names them.

    Raises UsageError, which names them, when test images have classes that no training image has, or when a name stands
    for two classes and the lists differ.
    """
    train_classes, test_classes = list(train.classes), list(test.classes)
    if train_classes == test_classes:
        index = np.arange(len(test_classes))
    else:
        _refuse_repeated(train_classes, train_name, test_name)
        _refuse_repeated(test_classes, test_name, train_name)
        index_of = {name: number for number, name in enumerate(train_classes)}
        index = np.array([index_of.get(name, -1) for name in test_classes], np.int64)
    trained, tested = np.unique(train.labels), np.unique(test.labels)
    unknown = [test_classes[label] for label in tested if index[label] not in trained]
    if unknown:
        known = [train_classes[label] for label in trained]
        raise UsageError(
            f"{_count(unknown)} of {test_name} {'have' if len(unknown) > 1 else 'has'} no image in {train_name}:"
            f" {_named(unknown)}; the classes there are {_named(known)}. Give sets whose classes have the same names."
        )
    missing = [train_classes[label] for label in trained if label not in index[tested]]
    if missing:
        warnings.warn(
            f"{test_name} has no image of {len(missing):,} of the {len(trained):,} classes of {train_name}:"
            f" {_named(missing)}.",
            stacklevel=2,
        )
    return AlignedLabels(torch.from_numpy(index[test.labels]), missing)


def _refuse_repeated(classes: Sequence[str], name: str, other: str) -> None:
    repeated = sorted({each for each in classes if classes.count(each) > 1}) if len(set(classes)) < len(classes) else []
    if repeated:
        raise UsageError(
            f"In {name} {_count(repeated)} named twice: {_named(repeated)}; their labels can't be matched with"
            f" those of {other} by name."
        )


def _count(names: Sequence[str]) -> str:
    return f"{len(names):,} {'class' if len(names) == 1 else 'classes'}"


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")
