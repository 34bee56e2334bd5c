"""Stage clock: how long each stage of a training step took."""

import time
from itertools import pairwise
from typing import Any

import torch


class StageClock:
    """Times the stages of one step at a time; `mark` doesn't wait for the device.

    On a GPU a stage is the time between two events on the device, its waits for the host included; on a CPU it is wall
    time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stages: list[str] = []
        self._times: list[Any] = []

    def start(self) -> None:
        """Start a step, and drop the times of the one before."""
        self._stages, self._times = [], [self._now()]

    def mark(self, stage: str) -> None:
        """Note that the host has just finished a stage, or queued it on the device."""
        self._stages.append(stage)
        self._times.append(self._now())

    def milliseconds(self) -> dict[str, float]:
        """Return the milliseconds of each stage, in order. Waits for the device to finish them."""
        on_gpu = self._device.type == "cuda"
        if on_gpu and self._times:
            self._times[-1].synchronize()
        spans = (start.elapsed_time(end) if on_gpu else 1000 * (end - start) for start, end in pairwise(self._times))
        return dict(zip(self._stages, spans, strict=True))

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
