"""Crops in page-locked memory → the same on the device, copied beside what it computes."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from simsiam.pipeline.crops import Crops


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Copy an array to the device on the current stream, without waiting; on a CPU, share its memory."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class CopiedCrops(NamedTuple):
    """Crops on their way to the device."""

    crops: Crops
    copied: torch.Event | None
    """When they are there; None where there was nothing to copy."""


class DeviceCopy:
    """Copies on a stream of its own, so that a copy neither waits for the step that is computed nor holds it up.

    The host is ahead of the device, so the crops of the next step are copied while this one is computed. On a CPU
    nothing is copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def pins_memory(self) -> bool:
        """Whether what is to be copied should be made in page-locked memory."""
        return self._stream is not None

    def begin(self, crops: Crops) -> CopiedCrops:
        """Begin to copy; from any thread."""
        if self._stream is None:
            return CopiedCrops(crops, None)
        with torch.cuda.stream(self._stream):
            return CopiedCrops(crops.to(self._device), self._stream.record_event())

    def ahead(self, batches: Iterator[tuple[Crops, int]]) -> Iterator[tuple[Crops, int]]:
        """Yield each batch's crops on the device, and the number beside them, the next batch already on its way."""
        if self._stream is None:
            yield from batches
            return
        waiting: tuple[CopiedCrops, int] | None = None
        for crops, number in batches:
            copied = self.begin(crops)
            if waiting:
                yield self.hand_over(waiting[0]), waiting[1]
            waiting = copied, number
        if waiting:
            yield self.hand_over(waiting[0]), waiting[1]

    def hand_over(self, copied: CopiedCrops) -> Crops:
        """Return crops whose use on the consumer's stream, the current one, comes after their copy."""
        crops, event = copied
        if event is not None:
            consumer = torch.cuda.current_stream(self._device)
            consumer.wait_event(event)
            # The memory is the copying stream's, which mustn't reuse it before the consumer's stream is done with it.
            for tensor in (crops.pixels, *crops.draws, crops.index, crops.label):
                tensor.record_stream(consumer)
        return crops
