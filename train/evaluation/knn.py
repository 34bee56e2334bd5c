"""kNN evaluation: accuracy of a weighted k-nearest-neighbour classifier on the features of a frozen encoder."""

import warnings
from pathlib import Path
from typing import NamedTuple

import torch

from simsiam.pipeline.progress import Progress
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.config import DeviceName, KnnConfig
from simsiam.train.evaluation.features import Features, extract_features
from simsiam.train.evaluation.frozen import check_finite, check_labels, open_frozen, open_labelled_pair

_CHUNK = 1024  # rows of the similarity matrix that are held at once


def knn_accuracy(train: Features, test: Features, k: int = 200, temperature: float = 0.1) -> float:
    """Return the share of `test`, 0 … 1, that its neighbours in `train` classify correctly.

    The k nearest by cosine similarity s vote with weight exp(s / temperature), and the class with most votes wins (Wu
    et al. 2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4). If there are
    fewer than k training images, all vote. Raises UsageError when either set is unlabelled, or a setting isn't positive
    and finite, and RunError when a feature isn't finite: such an encoder would be at chance without a word.
    """
    _check_votes(k, temperature)
    for name, features in (("train", train), ("test", test)):
        check_labels(name, features.labels)
        check_finite(name, features.vectors)
    bank = torch.nn.functional.normalize(train.vectors, dim=1)
    queries = torch.nn.functional.normalize(test.vectors, dim=1)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    correct = 0
    for chunk, labels in zip(queries.split(_CHUNK), test.labels.split(_CHUNK), strict=True):
        similarity, neighbour = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes)
        # Relative to the nearest, or at a low temperature all weights would underflow to 0, and class 0 would win.
        votes.scatter_add_(1, train.labels[neighbour], ((similarity - similarity[:, :1]) / temperature).exp())
        correct += int((votes.argmax(dim=1) == labels).sum())
    return correct / len(queries)


class Measured(NamedTuple):
    """An accuracy, and what it was measured with."""

    accuracy: float
    """0 … 1."""
    k: int
    temperature: float
    train_images: int
    test_images: int
    missing_classes: list[str]
    """Classes of the training images that no test image has."""
    train_skipped: list[tuple[str, str]]
    """Name and reason of broken training images, which are not among the others."""
    test_skipped: list[tuple[str, str]]
    """Likewise of test images: the accuracy is that of the others."""


def evaluate_checkpoint(
    checkpoint: Path,
    train: Path,
    test: Path,
    *,
    k: int | None = None,
    temperature: float | None = None,
    size: int | None = None,
    short_side: int | None = None,
    device: DeviceName = "auto",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Measured:
    """Measure a checkpoint's encoder; all settings are by default the run's, which reproduces its own accuracy.

    Classes are matched by name, see `align_classes`.
    """
    # Checked before the features, which can take hours.
    _check_votes(1 if k is None else k, 1.0 if temperature is None else temperature)
    frozen = open_frozen(checkpoint, size=size, short_side=short_side, device=device)
    k = int(frozen.config["knn"]["k"]) if k is None else k
    temperature = float(frozen.config["knn"]["temperature"]) if temperature is None else temperature
    workers = worker_count(workers)
    pair = open_labelled_pair(train, test)
    if k > len(pair.train):
        warnings.warn(f"k is {k}, but {train} has {len(pair.train)} images: all of them vote.", stacklevel=2)
    bank, queries = (
        extract_features(frozen.encoder, source, frozen.transform, frozen.arithmetic, workers, progress=progress)
        for source in pair.sources
    )
    accuracy = knn_accuracy(bank, queries._replace(labels=pair.test_labels), k, temperature)
    broken = [list(source.broken) for source in pair.sources]
    return Measured(accuracy, k, temperature, len(pair.train), len(pair.test), pair.missing_classes, *broken)


def _check_votes(k: int, temperature: float) -> None:
    KnnConfig(k=k, temperature=temperature)  # raises UsageError for what can't be voted with
