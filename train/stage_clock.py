"""A step that marks its stages → the time that each of them took."""

import time
from itertools import pairwise
from typing import Any

import torch


class StageClock:
    """Takes the time of the stages of one step at a time; to `mark` one waits for nothing.

    On a GPU it is the device's own time between two events, gaps where it waits for the host included; on a CPU the
    wall clock's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stages: list[str] = []
        self._times: list[Any] = []

    def start(self) -> None:
        """Begin a step; what was measured of the one before is forgotten."""
        self._stages, self._times = [], [self._now()]

    def mark(self, stage: str) -> None:
        """Note that a stage has just been done, as far as the host goes."""
        self._stages.append(stage)
        self._times.append(self._now())

    def milliseconds(self) -> dict[str, float]:
        """Return what each stage of the step took, in their order. Waits for the device to be done with them."""
        on_gpu = self._device.type == "cuda"
        if on_gpu and self._times:
            self._times[-1].synchronize()
        spans = (begin.elapsed_time(end) if on_gpu else 1000 * (end - begin) for begin, end in pairwise(self._times))
        return dict(zip(self._stages, spans, strict=True))

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
