"""kNN monitor: accuracy of the encoder during a run, and a sheet of nearest neighbours."""

import warnings
from pathlib import Path

import torch

from simsiam.pipeline.errors import ImageError, RunError
from simsiam.pipeline.progress import Progress
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.evaluation.batch_norm_calibration import has_seen_no_batch, with_statistics
from simsiam.train.evaluation.features import extract_features
from simsiam.train.evaluation.frozen import open_labelled_pair, transform_of_run
from simsiam.train.evaluation.knn import knn_accuracy
from simsiam.train.evaluation.neighbour_sheet import write_neighbour_sheet
from simsiam.train.precision import Arithmetic


class KnnMonitor:
    """Opens its images when constructed, so that a wrong path is an error before the run starts.

    `wanted` is False if the configuration names no images to measure on.
    """

    def __init__(self, config: PretrainConfig, arithmetic: Arithmetic, workers: int) -> None:
        knn = config.knn
        self.wanted = knn.train is not None
        if knn.train is None or knn.test is None:
            return
        self._pair = open_labelled_pair(knn.train, knn.test)
        self._transform = transform_of_run(to_tree(config))
        self._k, self._temperature = knn.k, knn.temperature
        self._arithmetic, self._workers = arithmetic, workers

    def describe(self) -> str:
        """Return a phrase that says what will be measured."""
        train, test = self._pair.sources
        broken = len(train.broken) + len(test.broken)
        skipped = f", broken and skipped: {broken:,}" if broken else ""
        return f"{min(self._k, len(train)):,} of {len(train):,} images vote on each of {len(test):,}{skipped}"

    def measure(
        self, encoder: torch.nn.Module, sheet: Path, progress: Progress | None = None
    ) -> tuple[float, Path | None]:
        """Return the accuracy, 0 … 1, of `encoder` as it is now, and `sheet`, a PNG of some neighbours.

        The encoder's state is restored, even if `progress` (called with the images done of each set) raises. Accuracy
        and sheet come from the same features. An encoder without a training step is measured with batch statistics of
        the images; see `with_statistics`. A sheet that can't be written is a warning, and None. Raises RunError naming
        an image that can't be decoded.
        """
        try:
            if has_seen_no_batch(encoder):
                encoder = with_statistics(encoder, self._pair.train, self._transform, self._arithmetic)
            train, test = (
                extract_features(encoder, source, self._transform, self._arithmetic, self._workers, progress=progress)
                for source in self._pair.sources
            )
        except ImageError as error:
            # No ImageError: what the run does with a broken image of its own does not apply here.
            raise RunError(f"The kNN monitor needs an image that can't be decoded: {error}; take it out.") from None
        test = test._replace(labels=self._pair.test_labels)
        accuracy = knn_accuracy(train, test, self._k, self._temperature)
        try:
            return accuracy, write_neighbour_sheet(self._pair.sources, (train, test), self._transform, sheet)
        except OSError as error:
            warnings.warn(f"The nearest neighbours could not be drawn to {sheet}: {error}", stacklevel=2)
            return accuracy, None
