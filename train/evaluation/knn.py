"""Features with labels → accuracy of a weighted k-nearest-neighbour classifier."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from simsiam.model.prepare import prepare
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.config import DeviceName
from simsiam.train.evaluation.align_classes import align_classes
from simsiam.train.evaluation.center_crop import CenterCrop, default_short_side
from simsiam.train.evaluation.features import Features, extract_features
from simsiam.train.load_encoder import load_encoder_and_config
from simsiam.train.precision import choose_arithmetic, open_device

_CHUNK = 1024  # rows of the similarity matrix that are held at once


def knn_accuracy(train: Features, test: Features, k: int = 200, temperature: float = 0.1) -> float:
    """Return the share of `test`, 0 … 1, whose class is found among its neighbours in `train`.

    Cosine similarity s, the k nearest vote with weight exp(s / temperature), the class with most votes wins (Wu et al.
    2018, "Unsupervised feature learning via non-parametric instance discrimination", section 3.4). k is cut to the
    number of training images. Raises UsageError when either set is unlabelled.
    """
    _refuse_settings(k, temperature)
    _refuse_unlabelled(train, test)
    bank = torch.nn.functional.normalize(train.vectors, dim=1)
    queries = torch.nn.functional.normalize(test.vectors, dim=1)
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    correct = 0
    for chunk, labels in zip(queries.split(_CHUNK), test.labels.split(_CHUNK), strict=True):
        similarity, neighbour = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes)
        votes.scatter_add_(1, train.labels[neighbour], ((similarity - 1) / temperature).exp())
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
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure a checkpoint's encoder; all settings are by default the run's, so that its own figure comes out again.

    Classes are matched by name, see `align_classes`.
    """
    # Asked here as well, like the labels below, since features can take hours.
    _refuse_settings(1 if k is None else k, 1.0 if temperature is None else temperature)
    encoder, config = load_encoder_and_config(checkpoint)
    k = int(config["knn"]["k"]) if k is None else k
    temperature = float(config["knn"]["temperature"]) if temperature is None else temperature
    arithmetic = choose_arithmetic(open_device(device), config["precision"])
    prepare(encoder, arithmetic.device)  # as in training, so that the monitor's figure comes out again
    data = config["data"]
    crop = int(data["size"]) if size is None else size
    resized = short_side
    if resized is None:
        resized = config["knn"]["short_side"] or default_short_side(crop)
    transform = CenterCrop(crop, resized, tuple(data["mean"]), tuple(data["std"]))
    workers = worker_count(workers)
    sources = open_source(train), open_source(test)
    _refuse_unlabelled(*sources)
    aligned = align_classes(*sources, str(train), str(test))
    if k > len(sources[0]):
        warnings.warn(f"k is {k}, but {train} has {len(sources[0])} images: all of them vote.", stacklevel=2)
    if train.resolve() == test.resolve():
        warnings.warn(f"{train} is both train and test, so that each image finds itself.", stacklevel=2)
    bank, queries = (
        extract_features(encoder, source, transform, arithmetic, workers, progress=progress) for source in sources
    )
    accuracy = knn_accuracy(bank, queries._replace(labels=aligned.labels), k, temperature)
    train_broken, test_broken = (list(source.broken) for source in sources)
    return Measured(
        accuracy, k, temperature, len(sources[0]), len(sources[1]), aligned.missing, train_broken, test_broken
    )


def _refuse_settings(k: int, temperature: float) -> None:
    if k < 1 or temperature <= 0:
        raise UsageError(f"k is {k} and the temperature {temperature}; both must be positive.")


def _refuse_unlabelled(*sets: Features | Source) -> None:
    if min(int(each.labels.min()) for each in sets) < 0:
        raise UsageError("kNN needs labelled images: put each class into a folder of its own.")
