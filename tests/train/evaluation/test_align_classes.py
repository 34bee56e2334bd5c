import warnings
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.source import Source
from simsiam.train.evaluation.align_classes import align_classes


def source(classes: str, labels: list[int]) -> Source:
    return cast(Source, SimpleNamespace(classes=tuple(classes.split()), labels=np.array(labels, np.int64)))


@pytest.mark.parametrize(
    ("train", "test", "labels", "missing"),
    [
        (("a b c", [0, 1, 2]), ("a b c", [2, 0, 1]), [2, 0, 1], []),
        (("a b c", [0, 1, 2]), ("b c", [0, 1, 1]), [1, 2, 2], ["a"]),
        (("a b c", [2, 1, 0]), ("c b a", [0, 1, 2]), [2, 1, 0], []),
        (("a b c", [0, 1, 2]), ("a b c", [2, 2]), [2, 2], ["a", "b"]),
        (("a b c", [0, 1, 2]), ("a b x c", [0, 3]), [0, 2], ["b"]),  # no image has class x
        (("a x b", [0, 2]), ("a b", [0, 1]), [0, 2], []),  # nor here
        (("a a b", [0, 1, 2]), ("a a b", [1, 2, 0]), [1, 2, 0], []),
    ],
)
def test_labels_are_those_of_the_training_set_by_name(train, test, labels, missing) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        aligned = align_classes(source(*train), source(*test), "TRAIN", "TEST")
    assert (aligned.labels.tolist(), aligned.missing) == (labels, missing)
    assert [str(each.message).partition(": ")[2] for each in told] == [f"{', '.join(missing)}."] * bool(missing)


@pytest.mark.parametrize(
    ("train", "test", "named"),
    [
        (("a b", [0, 1]), ("a x b y", [0, 1, 2, 3]), r"2 classes of TEST have no image in TRAIN: x, y; .* a, b\."),
        (("cat dog", [0, 1]), ("Cat dog", [0, 1]), "1 class of TEST has no image in TRAIN: Cat; .* cat, dog"),
        (("a b", [0, 0]), ("a b", [0, 1]), "1 class of TEST has no image in TRAIN: b; .* a"),
        (("a a b", [0, 1, 2]), ("a b", [0, 1]), "In TRAIN 1 class named twice: a"),
        ((" ".join(map(str, range(20))), range(20)), ("x", [0]), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 10 more"),
    ],
)
def test_classes_that_cannot_be_found_are_named(train, test, named) -> None:
    with pytest.raises(UsageError, match=named):
        align_classes(source(*train), source(*test), "TRAIN", "TEST")
