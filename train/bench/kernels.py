"""Benchmark of the kernels: each way of computing an operation, checked first, and timed only if the check holds."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from simsiam.pipeline.errors import RunError

Outputs = Sequence[Tensor]

_FLUSHED_BYTES = 256 * 2**20  # five times the L2 of an H100, four times an H200's
_RUNS = 50


class Way(NamedTuple):
    """One way of computing a case."""

    name: str
    """`simsiam` is ours, `reference` its definition in plain PyTorch, `compiled` that through torch.compile."""
    run: Callable[[], Outputs]
    """Computes it once: forward, and backward if there is one."""
    checked: bool = True
    """Whether its results can be compared; those of a baseline that draws its own random numbers cannot."""


class Case(NamedTuple):
    """One operation on one set of inputs."""

    operation: str
    inputs: str
    """Shape and dtype, for the reader."""
    exact: Callable[[], Outputs]
    """The results to compare with."""
    ways: Sequence[Way]
    bytes_moved: int
    """Bytes that every implementation must read or write; the comment at each case says how they are counted."""
    tolerance: float
    """Largest error of an output allowed, as a share of its largest value."""
    averaged: bool = False
    """Compare averages instead of largest values: where single values may differ, as those of ReLU near 0."""


def measure(case: Case, device: torch.device, copy_bandwidth: float, seconds: float = 1.0) -> Iterator[dict[str, Any]]:
    """Yield a row for each way: its times, or in `failed` the reason why there are none.

    `milliseconds` is the median of up to 50 runs within `seconds`, after a first one that is not counted. On a GPU it
    is device time between two events, with a cold cache: 256 MiB are written before each run. On a CPU it is wall-clock
    time with warm caches, so that `percent_of_copy`, the bandwidth of `bytes_moved` as a share of `copy_bandwidth`,
    can exceed 100.
    """
    exact = [output.detach() for output in case.exact()]
    for way in case.ways:
        row = {"operation": case.operation, "inputs": case.inputs, "way": way.name, "bytes_moved": case.bytes_moved}
        try:
            error = _error(way.run(), exact, case.averaged) if way.checked else None
            if error is not None and not error <= case.tolerance:
                yield row | {"failed": f"its relative error is {error:.2g}; {case.tolerance:.2g} is allowed"}
                continue
            times = _times(way.run, device, seconds)
        except Exception as problem:  # An error of one way, such as a missing compiler, must not stop the others.
            yield row | {"failed": f"{type(problem).__name__}: {str(problem).strip().splitlines()[0][:200]}"}
            continue
        median = statistics.median(times)
        yield row | {
            "error": error,
            "milliseconds": 1000 * median,
            "milliseconds_20_80": [1000 * times[int(share * (len(times) - 1))] for share in (0.2, 0.8)],
            "runs": len(times),
            "gigabytes_per_second": case.bytes_moved / median / 1e9,
            "percent_of_copy": 100 * case.bytes_moved / median / copy_bandwidth,
        }


def measure_copy(device: torch.device, size: int | None = None) -> float:
    """Return the bytes per second, read and written together, at which the device copies `size` bytes in its memory.

    By default 1 GiB on a GPU and 128 MiB on a CPU: more than the caches hold.
    """
    size = size or (2**30 if device.type == "cuda" else 2**27)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / statistics.median(_times(lambda: [target.copy_(source)], device, 0.5))


def _error(outputs: Outputs, exact: Outputs, averaged: bool) -> float:
    """Return the largest relative error of any output; NaN if there is any."""
    errors = []
    size = torch.mean if averaged else torch.amax
    for output, expected in zip(outputs, exact, strict=True):
        if output.shape != expected.shape:
            raise RunError(f"an output has shape {tuple(output.shape)} instead of {tuple(expected.shape)}")
        expected = expected.float()
        errors.append(size((output.detach().float() - expected).abs()) / size(expected.abs()))
    return torch.stack([error.to("cpu") for error in errors]).max().item()


def _times(run: Callable[[], Outputs], device: torch.device, seconds: float) -> list[float]:
    """Return the seconds that runs took, sorted."""
    run()
    times = _times_on_gpu(run, seconds) if device.type == "cuda" else _times_on_cpu(run, seconds)
    return sorted(times)


def _times_on_cpu(run: Callable[[], Outputs], seconds: float) -> list[float]:
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while not times or (time.perf_counter() < deadline and len(times) < _RUNS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def _times_on_gpu(run: Callable[[], Outputs], seconds: float) -> list[float]:
    flushed = torch.empty(_FLUSHED_BYTES, dtype=torch.uint8, device="cuda")
    events = []
    deadline = time.perf_counter() + seconds
    while not events or (time.perf_counter() < deadline and len(events) < _RUNS):
        # Eight times, which takes longer than the host needs to launch a run: the host is ahead, as in training.
        for _ in range(8):
            flushed.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        events.append((start, end))
        torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1000 for start, end in events]
