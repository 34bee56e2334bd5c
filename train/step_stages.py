"""A training step that marks its stages → what each stage takes, what the whole computes, and a trace of it."""

import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simsiam.train.stage_clock import StageClock
from simsiam.train.step import Mark

_TRACED_STEPS = 3
_PRODUCTS = 5


def time_stages(step: Callable[[Mark], object], device: torch.device, steps: int) -> dict[str, float]:
    """Return milliseconds of each stage, by `StageClock`: the median over some steps, in the order of the marks."""
    clock, times = StageClock(device), {}
    for _ in range(steps):
        clock.start()
        step(clock.mark)
        for stage, milliseconds in clock.milliseconds().items():
            times.setdefault(stage, []).append(milliseconds)
    return {stage: statistics.median(each) for stage, each in times.items()}


def count_work(step: Callable[[], object], model: nn.Module) -> tuple[int, int]:
    """Return the floating point operations of a step, and the bytes that it can't avoid to move.

    Operations are those of convolutions and matrix products, a multiplication and an addition being two. Bytes are
    counted for convolutions with their batch norm, after torch.compile's manner: with I and S the bytes that go into
    and come out of them, each of forward, gradient of the input and gradient of the weights moves I + S, and batch
    norm with ReLU, fused, another 8 S: it is read twice and written once forward, as good as twice that backward.
    Caches are not counted on. A compiled model is run as it was before.
    """
    inputs, outputs = 0, 0

    def count(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal inputs, outputs
        inputs += arguments[0].numel() * output.element_size()  # autocast has the input in the output's type
        outputs += output.numel() * output.element_size()

    hooks = [each.register_forward_hook(count) for each in model.modules() if isinstance(each, nn.Conv2d)]
    try:
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
            step()
    finally:
        for hook in hooks:
            hook.remove()
    return counter.get_total_flops(), 3 * (inputs + outputs) + 8 * outputs


def measure_products(device: torch.device, dtype: torch.dtype, side: int | None = None) -> float:
    """Return the floating point operations per second of a product of two square matrices, the best of a few.

    By default they have 8,192 rows on a GPU, and 2,048 on a CPU.
    """
    side = side or (8192 if device.type == "cuda" else 2048)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def multiply(mark: Mark) -> None:
        torch.mm(left, right)
        mark("product")

    milliseconds = min(time_stages(multiply, device, 1)["product"] for _ in range(_PRODUCTS))
    return 2 * side**3 / (milliseconds / 1000)


def trace_steps(step: Callable[[], object], path: Path) -> None:
    """Write a trace of three steps that Chrome's chrome://tracing and ui.perfetto.dev show."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(_TRACED_STEPS):
            step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    profiler.export_chrome_trace(str(path))
