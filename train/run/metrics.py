"""Metrics of a run: means over the steps between two lines, the file metrics.jsonl, and its summary."""

import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from simsiam.pipeline.atomic_write import write_text_atomically
from simsiam.train.loss import StepOutput
from simsiam.train.run.record import Record
from simsiam.train.run.trackers import Tracker

_UNWRITTEN_BYTES = 1 << 20  # a few thousand records, kept while the disk is full

Line = dict[str, Any]
"""A line of metrics.jsonl as it is read, of this version or of another; `Record` is what this version writes."""


def read_metrics(run_dir: Path) -> list[Line]:
    """Return the lines of a run's metrics.jsonl, oldest first; [] if the run has not started."""
    try:
        lines = (run_dir / "metrics.jsonl").read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue  # truncated when the run was killed, or damaged
        if isinstance(record, dict) and "step" in record:
            records.append(record)
    return records


def summarize(records: list[Line]) -> Line:
    """Return the last value of every metric, and the kNN accuracy at random initialisation as `knn_random`."""
    summary: Line = {}
    for record in records:
        if "knn" in record and record["step"] == 0:
            summary["knn_random"] = record["knn"]
        else:
            summary |= record
    return summary


class MetricsLog:
    """Appends records to metrics.jsonl, and sends records and pictures to trackers.

    A failure, such as a full disk, is a warning and doesn't end training. Records that can't be written now are
    written with a later one; a tracker that fails is not used again.
    """

    def __init__(self, run_dir: Path, trackers: Sequence[Tracker] = (), after_step: int = 0) -> None:
        """Continue after `after_step`: lines that a killed run wrote after its last checkpoint are dropped."""
        path = run_dir / "metrics.jsonl"
        kept = [record for record in read_metrics(run_dir) if record["step"] <= after_step]
        write_text_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", buffering=_UNWRITTEN_BYTES)
        self._trackers = list(trackers)

    def write(self, record: Record) -> None:
        """Append one record."""
        line = record.line()
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            warnings.warn(f"The record of step {record.step} could not be written yet: {error}", stacklevel=2)
        self._tell(lambda tracker: tracker.show(line))

    def show_picture(self, name: str, file: Path, step: int) -> None:
        """Send a PNG to the trackers, under a name such as `neighbours`."""
        with Image.open(file) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._tell(lambda tracker: tracker.show_picture(name, pixels, step))

    def close(self) -> None:
        """Flush and close the files. Raises OSError when records could not be written to the end."""
        self._tell(lambda tracker: tracker.close())
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers.copy():
            try:
                what(tracker)
            except Exception as error:  # other programs raise errors of any class
                self._trackers.remove(tracker)
                name = type(tracker).__name__
                warnings.warn(f"{name} failed and gets no more records of this run: {error}", stacklevel=3)


class NoLog:
    """A `MetricsLog` that writes nothing, for all processes but the first."""

    def write(self, record: Record) -> None:
        """Write nothing."""

    def show_picture(self, name: str, file: Path, step: int) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Close nothing."""


class WindowMeans(NamedTuple):
    """Means over the steps of a window, by the keys of a `Record`."""

    loss: float
    output_std: float
    images_per_second: float
    views_per_second: float
    wait_percent: float


class StepWindow:
    """Sums over the steps since the last record; loss and spread stay on the device until `means`."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)
        """Of the loss, of the spread, and of 1, over the steps where both are finite."""
        self.start_clock()

    def add(self, output: StepOutput, wait_seconds: float) -> None:
        """Count one step and the time that it waited for its crops."""
        values = torch.stack([*output, torch.ones_like(output.loss)])
        self.sums += torch.where(values.isfinite().all(), values, 0.0)
        self._timed_steps += 1
        self._wait_seconds += wait_seconds

    def means(self, images_per_step: int, views: int = 2) -> WindowMeans:
        """Return means over the window so far; NaN where nothing was finite. This waits for the device."""
        loss, spread, _ = (self.sums / self.sums[2]).tolist()
        seconds = time.perf_counter() - self._started
        images_per_second = self._timed_steps * images_per_step / seconds
        return WindowMeans(
            loss=loss,
            output_std=spread,
            images_per_second=round(images_per_second, 1),
            views_per_second=round(images_per_second * views, 1),
            wait_percent=round(100 * self._wait_seconds / seconds, 1),
        )

    def restart(self) -> None:
        """Start a new window."""
        self.sums.zero_()
        self.start_clock()

    def pause(self) -> "_Pause":
        """Return a context whose time does not count: evaluation, saving."""
        return _Pause(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, so that a resumed run writes the same means."""
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the sums of a saved run; the clock starts now."""
        self.sums.copy_(state["sums"])
        self.start_clock()

    def start_clock(self) -> None:
        """Start counting steps and seconds; earlier ones don't count towards the speed."""
        self._timed_steps = 0
        self._wait_seconds = 0.0
        self._started = time.perf_counter()


class _Pause:
    def __init__(self, window: StepWindow) -> None:
        self._window = window

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._window._started += time.perf_counter() - self._since
