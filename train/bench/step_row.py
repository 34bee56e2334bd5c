"""A row of `simsiam bench step` or `bench train` → rounds of whole steps, timed; runs in its own process."""

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simsiam.train.bench.kernels import measure_copy
from simsiam.train.bench.step_contenders import StepRow, StepSettings, open_row
from simsiam.train.bench.step_stages import Products, count_work, measure_products, time_stages, trace_steps
from simsiam.train.bench.windows import Window, time_windows
from simsiam.train.memory import explain_out_of_memory
from simsiam.train.precision import open_device
from simsiam.train.step import Mark

_WARM_UP_STEPS = 2
_STAGED_STEPS = 3
_WINDOW_SECONDS = 1.0


class FirstSteps(NamedTuple):
    """What a row does before the rounds: start, warm up, and all that would disturb them."""

    opening_seconds: float
    """To the end of the first step: packages imported before, everything opened and compiled since."""
    backend: str
    """Where the batches come from."""
    precision: str
    stage_milliseconds: dict[str, float]
    """See `time_stages`; waiting for the loader is none of them."""
    operations: int
    """Floating point operations of a step."""
    bytes_moved: int
    """What a step moves at least; see `count_work`."""
    products: Products
    """What the row's convolutions and products are computed in."""
    products_per_second: float
    """Floating point operations per second of large matrix products in that."""
    copy_bytes_per_second: float | None
    """Of a copy in a GPU's memory; None on a CPU, whose caches may hold what a step moves."""


class StepRound(NamedTuple):
    """What a row does from then on."""

    windows: list[Window]
    wait_seconds: float
    """Of the windows' time, in which the loader was waited for."""
    device_memory_bytes: int | None
    """The most that the steps have taken of a GPU's memory."""


def measure_steps(settings: StepSettings) -> Generator[FirstSteps | StepRound]:
    """Yield what is measured once, then a round whenever one is asked for."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.backends.cudnn.benchmark = True  # as pretrain does, and most trainings
    device = open_device(settings.config.device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    began = time.perf_counter()
    with ExitStack() as held:
        row = open_row(settings, device, held)
        held.enter_context(explain_out_of_memory(row.model, settings.config.batch_size))
        batch = next(row.batches)
        row.step(batch, _ignore)
        synchronize()
        opening_seconds = time.perf_counter() - began
        first = _measure_once(settings, row, batch, device, opening_seconds)
        _rest(device)
        yield first
        waits: list[float] = []
        images = _train(row, settings.config.batch_size, waits)
        while True:
            # What lay ready while the row rested says nothing of its speed: a DataLoader has two for each worker.
            for _ in range(_WARM_UP_STEPS + (2 * settings.workers if row.backend != "synthetic" else 0)):
                next(images)
            waits.clear()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            windows = time_windows(
                images, settings.seconds, min(_WINDOW_SECONDS, settings.seconds), least=1, synchronize=synchronize
            )
            memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
            _rest(device)
            yield StepRound(windows, sum(waits), memory)


def _rest(device: torch.device) -> None:
    """Give back what PyTorch keeps of a GPU's memory, which the row whose turn comes may need."""
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

    stages = time_stages(staged_step, device, _STAGED_STEPS)
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
        measure_products(device, row.products),
        measure_copy(device) if on_gpu else None,
    )


def _train(row: StepRow, batch_size: int, waits: list[float]) -> Iterator[int]:
    """Take steps without end; yield the images of each, and append the seconds that its batch was waited for."""
    while True:
        asked = time.perf_counter()
        batch = next(row.batches)
        waits.append(time.perf_counter() - asked)
        row.step(batch, _ignore)
        yield batch_size


def _with_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    parts = [_with_tensors(part, change) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


def _ignore(stage: str) -> None:
    pass
