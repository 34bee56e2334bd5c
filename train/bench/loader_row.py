"""Measurement of a row of `simsiam bench loader`, in its own process: its first epoch, then rounds of its batches."""

import os
import time
from collections.abc import Generator
from contextlib import closing
from typing import NamedTuple

import torch

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.bench.loader_batches import LongPlan, RowSettings, batches_of
from simsiam.train.bench.process_usage import cpu_seconds
from simsiam.train.bench.windows import Window, time_window, time_windows
from simsiam.train.precision import open_device

_WINDOW_SECONDS = 1.0
_PREPARED_BATCHES = 8
"""Batches that a loader may have prepared; a DataLoader has two for each worker."""


class FirstEpoch(NamedTuple):
    """What a row does once: compile, start its workers, read what isn't in the page cache yet."""

    opening_seconds: float
    """From the source's name to the first batch, without Python's imports."""
    window: Window
    """The rest of one pass over the source, or as much of it as there was time for."""


class Round(NamedTuple):
    """What a row does after its first epoch."""

    windows: list[Window]
    cpu_seconds: float
    """CPU time of the row's process and its descendants."""


def measure_row(settings: RowSettings) -> Generator[FirstEpoch | Round]:
    """Yield the first epoch, then rounds, each measured when it is asked for."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    device = open_device(settings.device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    started = time.perf_counter()
    plan = LongPlan(open_source(settings.source), Augmentation(), settings.size, settings.batch_size)
    with closing(batches_of(settings, plan, device, cores)) as batches:
        images = (batch.images for batch in batches)
        next(images)
        synchronize()
        opening_seconds = time.perf_counter() - started
        rest = max(1, plan.steps_of_source() - 1)
        yield FirstEpoch(opening_seconds, time_window(images, settings.seconds, most=rest, synchronize=synchronize))
        while True:
            # Batches that were prepared while another row was measured say nothing of this one's speed.
            for _ in range(max(_PREPARED_BATCHES, 2 * settings.workers)):
                next(images)
            used = cpu_seconds(os.getpid())
            windows = time_windows(
                images,
                settings.seconds,
                min(_WINDOW_SECONDS, settings.seconds),
                least=max(1, 2 * settings.workers),  # two of each worker: they tend to finish together
                synchronize=synchronize,
            )
            yield Round(windows, cpu_seconds(os.getpid()) - used)
