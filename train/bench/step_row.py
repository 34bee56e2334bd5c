"""Measurement of a row of `simsiam bench step` or `bench train`, in its own process: once, then rounds of its steps."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simsiam.train.bench.kernels import measure_copy
from simsiam.train.bench.step_contenders import StepRow, StepSettings, open_row
from simsiam.train.bench.step_stages import Products, count_work, measure_products, time_stages, trace_steps
from simsiam.train.bench.windows import Window, time_windows
from simsiam.train.memory import explain_out_of_memory
from simsiam.train.precision import open_device
from simsiam.train.stage_clock import StageClock
from simsiam.train.step import Mark

_WARM_UP_STEPS = 2
_STAGED_STEPS = 3
_WINDOW_SECONDS = 1.0


class FirstSteps(NamedTuple):
    """What is measured of a row before the rounds, since it would disturb them."""

    opening_seconds: float
    """Time to the end of the first step, with everything opened and compiled, without Python's imports."""
    backend: str
    """Source of the batches."""
    precision: str
    stage_milliseconds: dict[str, float]
    """See `time_stages`; waiting for the loader is none of them."""
    operations: int
    """Floating point operations of a step."""
    bytes_moved: int
    """The least that a step moves; see `count_work`."""
    products: Products
    """Arithmetic of the row's convolutions and matrix products."""
    products_per_second: float
    """Floating point operations per second of large matrix products in that arithmetic."""
    copy_bytes_per_second: float | None
    """Rate of a copy in a GPU's memory; None on a CPU, whose caches may hold what a step moves."""


class StepRound(NamedTuple):
    """What is measured of a row in each round."""

    windows: list[Window]
    wait_seconds: float
    """The part of the windows' time in which the step waited for the loader."""
    device_memory_bytes: int | None
    """Peak of a GPU's memory that the steps took; None on a CPU."""


def measure_steps(settings: StepSettings) -> Generator[FirstSteps | StepRound]:
    """Yield what is measured once, then rounds, each measured when it is asked for."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True  # as pretrain does, and most trainings
    device = open_device(settings.config.device)
    started = time.perf_counter()
    with ExitStack() as held:
        row = open_row(settings, device, held)
        held.enter_context(explain_out_of_memory(row.model, settings.config.batch_size))
        batch = next(row.batches)
        row.step(batch, _ignore)
        _synchronize(device)
        opening_seconds = time.perf_counter() - started
        first = _measure_once(settings, row, batch, device, opening_seconds)
        _release_memory(device)
        yield first
        # Batches that were prepared while another row was measured say nothing of this one's speed: a DataLoader
        # prepares two for each worker.
        prepared = 2 * settings.workers if row.backend != "synthetic" else 0
        yield from rounds_of(row, device, settings.config.batch_size, settings.seconds, _WARM_UP_STEPS + prepared)


def rounds_of(
    row: StepRow,
    device: torch.device,
    batch_size: int,
    seconds: float,
    warm_up_steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[StepRound]:
    """Yield rounds of `seconds`, each measured when it is asked for, after `warm_up_steps` that aren't counted."""
    waits: list[float] = []
    images = _train(row, batch_size, waits, clock)
    synchronize = partial(_synchronize, device)
    while True:
        for _ in range(warm_up_steps):
            next(images)
        waits.clear()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        windows = time_windows(
            images, seconds, min(_WINDOW_SECONDS, seconds), least=1, synchronize=synchronize, clock=clock
        )
        memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
        _release_memory(device)
        yield StepRound(windows, sum(waits), memory)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _release_memory(device: torch.device) -> None:
    """Release what PyTorch caches of a GPU's memory: the row that is measured next may need it."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _measure_once(
    settings: StepSettings, row: StepRow, batch: Any, device: torch.device, opening_seconds: float
) -> FirstSteps:
    for _ in range(_WARM_UP_STEPS):
        row.step(batch, _ignore)
    on_gpu = device.type == "cuda"
    on_host = _with_tensors(batch, lambda tensor: tensor.cpu().pin_memory()) if on_gpu else batch

    def staged_step(mark: Mark) -> None:
        here = on_host
        if on_gpu:
            here = _with_tensors(on_host, lambda tensor: tensor.to(device, non_blocking=True))
            mark("copy")
        row.step(here, mark)

    stages = time_stages(staged_step, StageClock(device), _STAGED_STEPS)
    operations, bytes_moved = count_work(lambda: row.step(batch, _ignore), row.model)
    if settings.trace:
        trace_steps(lambda mark: row.step(batch, mark), settings.trace)
    return FirstSteps(
        opening_seconds,
        row.backend,
        row.precision,
        stages,
        operations,
        bytes_moved,
        row.products,
        measure_products(device, row.products, settings.product_side),
        measure_copy(device) if on_gpu else None,
    )


def _train(row: StepRow, batch_size: int, waits: list[float], clock: Callable[[], float]) -> Iterator[int]:
    """Take steps endlessly; yield the images of each, and append the seconds that it waited for its batch."""
    while True:
        asked = clock()
        batch = next(row.batches)
        waits.append(clock() - asked)
        row.step(batch, _ignore)
        yield batch_size


def _with_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    parts = [_with_tensors(part, change) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


def _ignore(stage: str) -> None:
    pass
