"""Stages, work and trace of a training step: how long each stage takes, what the step computes and moves."""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simsiam.pipeline.atomic_write import open_atomically
from simsiam.train.stage_clock import StageClock
from simsiam.train.step import Mark

_TRACED_STEPS = 3
_PRODUCT_RUNS = 5


class Clock(Protocol):
    """Times the stages of one step; see `StageClock`."""

    def start(self) -> None:
        """Start a step."""

    def mark(self, stage: str) -> None:
        """Note that a stage has just been done."""

    def milliseconds(self) -> dict[str, float]:
        """Return how long each stage took."""
        ...


def time_stages(step: Callable[[Mark], object], clock: Clock, steps: int) -> dict[str, float]:
    """Return milliseconds of each stage: the median over `steps` steps, in the order of the marks."""
    times: dict[str, list[float]] = {}
    for _ in range(steps):
        clock.start()
        step(clock.mark)
        for stage, milliseconds in clock.milliseconds().items():
            times.setdefault(stage, []).append(milliseconds)
    return {stage: statistics.median(each) for stage, each in times.items()}


def count_work(step: Callable[[], object], model: nn.Module) -> tuple[int, int]:
    """Return the floating point operations of a step, and the least bytes that it moves.

    Operations are those of convolutions and matrix products, a multiplication and an addition being two. Bytes are
    counted for convolutions with fused batch norm and ReLU, as torch.compile makes them, without the help of caches.
    With I and S the bytes that go into and come out of the convolutions, each of forward, gradient of the input and
    gradient of the weights moves I + S, and batch norm with ReLU another 8 S: it reads S twice and writes it once
    forward, four times and once backward. A compiled model runs uncompiled here.
    """
    inputs, outputs = 0, 0

    def count(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal inputs, outputs
        inputs += arguments[0].numel() * output.element_size()  # autocast casts the input to the output's type
        outputs += output.numel() * output.element_size()

    hooks = [each.register_forward_hook(count) for each in model.modules() if isinstance(each, nn.Conv2d)]
    try:
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            step()
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops(), 3 * (inputs + outputs) + 8 * outputs


class Products(NamedTuple):
    """Arithmetic of matrix products."""

    dtype: torch.dtype
    tf32: bool = False
    """Whether a GPU rounds float32 to tf32 before."""


def measure_products(
    device: torch.device, products: Products, side: int | None = None, clock: Clock | None = None
) -> float:
    """Return the floating point operations per second of a product of two square matrices, the best of a few.

    They have `side` rows, by default 8,192 on a GPU and 2,048 on a CPU. `clock` is a `StageClock` by default.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    clock = clock or StageClock(device)
    left, right = (torch.randn(side, side, device=device).to(products.dtype) for _ in range(2))

    def multiply(mark: Mark) -> None:
        torch.mm(left, right)
        mark("product")

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = products.tf32
    try:
        milliseconds = min(time_stages(multiply, clock, 1)["product"] for _ in range(_PRODUCT_RUNS))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * side**3 / (milliseconds / 1000)


def trace_steps(step: Callable[[Mark], object], path: Path) -> None:
    """Write a trace of three steps that Chrome's chrome://tracing and ui.perfetto.dev show, with the ends of stages.

    Raises OSError if it can't be written.
    """

    def note_end(stage: str) -> None:
        with torch.profiler.record_function(f"end of {stage}"):
            pass

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(_TRACED_STEPS):
            step(note_end)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder, open_atomically(path) as file:
        # PyTorch doesn't report a file that it can't write, so it writes to a folder where it can.
        profiler.export_chrome_trace(str(Path(folder) / path.name))
        file.write((Path(folder) / path.name).read_bytes())
