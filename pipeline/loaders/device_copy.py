"""Copy of crops from page-locked memory to the device, on a stream of its own, while the device computes."""

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
    """Crops that are being copied to the device."""

    crops: Crops
    copied: torch.Event | None
    """Recorded behind the copy; None if there was nothing to copy."""


class DeviceCopy:
    """Copies on its own stream, so that the copy and the computation of a step don't wait for each other.

    The host is ahead of the device, so the crops of the next step are copied while this step is computed. On a CPU
    nothing is copied.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def pins_memory(self) -> bool:
        """Whether crops should be made in page-locked memory."""
        return self._stream is not None

    def start(self, crops: Crops) -> CopiedCrops:
        """Start a copy; may be called in any thread."""
        if self._stream is None:
            return CopiedCrops(crops, None)
        with torch.cuda.stream(self._stream):
            return CopiedCrops(crops.to(self._device), self._stream.record_event())

    def ahead(self, batches: Iterator[tuple[Crops, int]]) -> Iterator[tuple[Crops, int]]:
        """Yield the crops of each batch on the device, and its number, when the copy of the next one has started."""
        if self._stream is None:
            yield from batches
            return
        waiting: tuple[CopiedCrops, int] | None = None
        for crops, number in batches:
            copied = self.start(crops)
            if waiting:
                yield self.hand_over(waiting[0]), waiting[1]
            waiting = copied, number
        if waiting:
            yield self.hand_over(waiting[0]), waiting[1]

    def hand_over(self, copied: CopiedCrops) -> Crops:
        """Return the crops for use on the current stream, which waits for their copy; the host doesn't."""
        crops, event = copied
        if event is not None:
            consumer = torch.cuda.current_stream(self._device)
            consumer.wait_event(event)
            # The copying stream must not reuse this memory before the consumer's stream is done with it.
            for tensor in (crops.pixels, *crops.draws, crops.index, crops.label):
                tensor.record_stream(consumer)
        return crops
