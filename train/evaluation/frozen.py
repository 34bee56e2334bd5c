"""What every evaluation of a frozen encoder starts with: the encoder of a run, and two labelled sources, checked.

What can't be evaluated is refused here, before features are extracted, which can take hours.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import torch

from simsiam.model.prepare import prepare
from simsiam.model.resnet import ResNet
from simsiam.pipeline.errors import RunError, UsageError
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.config import DeviceName
from simsiam.train.evaluation.align_classes import align_classes
from simsiam.train.evaluation.center_crop import CenterCrop, default_short_side
from simsiam.train.load_encoder import load_encoder_and_config
from simsiam.train.precision import Arithmetic, choose_arithmetic, open_device


class Frozen(NamedTuple):
    """An encoder in evaluation mode, and what it is evaluated with."""

    encoder: ResNet
    config: dict[str, Any]
    """The configuration of its run, as a tree of plain values."""
    transform: CenterCrop
    arithmetic: Arithmetic


def open_frozen(
    checkpoint: Path, *, size: int | None = None, short_side: int | None = None, device: DeviceName = "auto"
) -> Frozen:
    """Load the encoder of a checkpoint or a run folder onto a device.

    It is prepared as in training, and `size` and `short_side`, in pixels, are by default the run's, so that an
    evaluation gives the same figure as during the run. Raises UsageError when there is no checkpoint or no such device.
    """
    encoder, config = load_encoder_and_config(checkpoint)
    arithmetic = choose_arithmetic(open_device(device), config["precision"])
    prepare(encoder, arithmetic.device)
    return Frozen(encoder, config, transform_of_run(config, size, short_side), arithmetic)


def transform_of_run(config: Mapping[str, Any], size: int | None = None, short_side: int | None = None) -> CenterCrop:
    """Return the centre crop that a run evaluates with, by its configuration as a tree; sizes in pixels."""
    data = config["data"]
    size = int(data["size"]) if size is None else size
    by_default = config["knn"]["short_side"] or default_short_side(size)
    return CenterCrop(size, by_default if short_side is None else short_side, tuple(data["mean"]), tuple(data["std"]))


class LabelledPair(NamedTuple):
    """The images to learn from and the images to test, with the classes of the former."""

    train: Source
    test: Source
    test_labels: torch.Tensor
    """int64 (n,): the labels of the test images, in the numbering of `train.classes`."""
    missing_classes: list[str]
    """Classes of the training images that no test image has."""

    @property
    def sources(self) -> tuple[Source, Source]:
        """Both sources, `train` first."""
        return self.train, self.test


def open_labelled_pair(train: Path, test: Path) -> LabelledPair:
    """Open the images to learn from and the images to test, whose classes are matched by name.

    Raises UsageError when an image has no label, or a test image a class that no training image has.
    """
    sources = open_source(train), open_source(test)
    for path, source in zip((train, test), sources, strict=True):
        check_labels(path, source.labels)
    aligned = align_classes(*sources, str(train), str(test))
    if train.resolve() == test.resolve():
        warnings.warn(f"{train} is both train and test: each test image is a training image, too.", stacklevel=2)
    return LabelledPair(*sources, aligned.labels, aligned.missing)


def check_labels(name: object, labels: npt.NDArray | torch.Tensor) -> None:
    """Raise UsageError when one of the `labels` of the images `name` is -1, no label."""
    if int(labels.min()) < 0:
        raise UsageError(f"Not every image of {name} has a label: put each class into a folder of its own.")


def check_finite(name: object, vectors: torch.Tensor) -> None:
    """Raise RunError when a feature, one of the `vectors` (n, d) of the images `name`, is NaN or infinite."""
    bad = int((~vectors.isfinite().all(dim=1)).sum())
    if bad:
        raise RunError(
            f"The features of {bad:,} of the {len(vectors):,} images of {name} aren't finite; the encoder"
            " has diverged, which a smaller optimizer.base_lr prevents, or overflows in this precision."
        )
