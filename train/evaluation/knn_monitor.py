"""A run's configuration → the kNN accuracy of its encoder, and whom it takes for neighbours, whenever the loop asks."""

import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.config import PretrainConfig
from simsiam.train.evaluation.align_classes import align_classes
from simsiam.train.evaluation.batch_norm_calibration import has_seen_no_batch, with_statistics
from simsiam.train.evaluation.center_crop import CenterCrop, default_short_side
from simsiam.train.evaluation.features import extract_features
from simsiam.train.evaluation.knn import knn_accuracy
from simsiam.train.evaluation.neighbour_sheet import write_neighbour_sheet
from simsiam.train.precision import Arithmetic


class KnnMonitor:
    """Opens its images at once, so that a wrong path is told before the run starts.

    `wanted` is False where the configuration names no images to measure on.
    """

    def __init__(self, config: PretrainConfig, arithmetic: Arithmetic, workers: int) -> None:
        knn, data = config.knn, config.data
        self.wanted = knn.train is not None
        if knn.train is None or knn.test is None:
            return
        self._sources = open_source(knn.train), open_source(knn.test)
        for path, source in zip((knn.train, knn.test), self._sources, strict=True):
            if source.labels.min() < 0:
                raise UsageError(f"The kNN monitor needs labels, and {path} has images outside any class folder.")
        self._test_labels = align_classes(*self._sources, str(knn.train), str(knn.test)).labels
        short_side = knn.short_side or default_short_side(data.size)
        self._transform = CenterCrop(data.size, short_side, data.mean, data.std)
        self._k, self._temperature = knn.k, knn.temperature
        self._arithmetic, self._workers = arithmetic, workers

    def describe(self) -> str:
        """Return what will be measured, in words."""
        train, test = self._sources
        broken = len(train.broken) + len(test.broken)
        left_out = f", {broken:,} broken {'one' if broken == 1 else 'ones'} left out" if broken else ""
        return f"{min(self._k, len(train)):,} of {len(train):,} images vote on each of {len(test):,}{left_out}"

    def measure(
        self, encoder: torch.nn.Module, sheet: Path, progress: Callable[[int, int], None] | None = None
    ) -> tuple[float, Path | None]:
        """Return the accuracy, 0 … 1, of `encoder` as it is now, and `sheet`, a PNG of some neighbours.

        The encoder is left as it was, also where `progress`, called with the images done of each set, raises; accuracy
        and sheet come from the same features. Before its first step an encoder is measured with batch statistics of
        the images; see `with_statistics`. A sheet that can't be written is no reason to lose a run: it is a warning,
        and None.
        """
        if has_seen_no_batch(encoder):
            encoder = with_statistics(encoder, self._sources[0], self._transform, self._arithmetic)
        train, test = (
            extract_features(encoder, source, self._transform, self._arithmetic, self._workers, progress=progress)
            for source in self._sources
        )
        test = test._replace(labels=self._test_labels)
        accuracy = knn_accuracy(train, test, self._k, self._temperature)
        try:
            return accuracy, write_neighbour_sheet(self._sources, (train, test), self._transform, sheet)
        except OSError as error:
            warnings.warn(f"The nearest neighbours could not be drawn to {sheet}: {error}", stacklevel=2)
            return accuracy, None
