"""The ffcv backend: crops from a `.beton`, by the JPEG decoder in FFCV's library and our resizer, compiled."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from simsiam.pipeline.beton.layout import RAW
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.decode import most_pixels
from simsiam.pipeline.errors import ForeignFileError, ImageError
from simsiam.pipeline.loaders.backend_package import backend_package
from simsiam.pipeline.loaders.device_copy import CopiedCrops, DeviceCopy
from simsiam.pipeline.loaders.reference_crop import crop_image
from simsiam.pipeline.loaders.replace_broken import Rows
from simsiam.pipeline.loaders.steps_ahead import Step, StepsAhead
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.progress import Progress

with backend_package("ffcv", "ffcv==1.0.2"):
    from simsiam.pipeline.loaders.ffcv_routines import Decoder, crop_records

_STEPS = 3
"""Steps under way, the one that the consumer waits for included: bounds the memory."""


class FfcvLoader(CropLoader):
    """Decodes each record once and crops the decoded pixels, in `workers` threads (at least one).

    Reading, decoding and cropping up to 16 images is one compiled call without Python's global lock. One call per
    routine and image is as fast in itself, but 16 such threads, which take the lock 30,000 times a second, halved the
    rate at which another thread could launch operations (simulated on 2 cores). The threads are up to two steps ahead;
    on a CUDA device they also start the copy of a finished step.

    A record for which the decoder returns an error or a warning is left to the reference decoder, so that the same
    images are broken on every backend. A broken image is an `ImageError` that names it, or is replaced by the next
    good one and counted in `replaced`, as `plan.on_broken` says.

    Images are always decoded at full size. Decoding at half size, where both crops are at least twice the output's
    size, would change crops by up to 9 grey levels.

    Raises UsageError when the source is no `.beton`.
    """

    def __init__(
        self, plan: CropPlan, device: torch.device, workers: int = 0, progress: Progress | None = None
    ) -> None:
        self._plan, self._source = plan, _beton_of(plan)
        records = self._source.records
        pixels = records.sizes.astype(np.int64).prod(axis=1)
        # Decompression bombs are left to the reference decoder, which refuses them; stored pixels aren't decoded.
        self._fits = (records.modes == RAW) | (pixels <= most_pixels())
        longest = records.lengths[self._fits & (records.modes != RAW)].max(initial=1)
        self._scratch = _Scratch(int(longest), int(pixels[self._fits].max(initial=1)) * 3)
        self._copy = DeviceCopy(device)
        self._steps: StepsAhead[_Step] = StepsAhead(plan, workers, _STEPS, "ffcv")

    @staticmethod
    def check(plan: CropPlan) -> None:
        """Raise UsageError unless the plan's source is a `.beton`."""
        _beton_of(plan)

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return len(self._plan)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield the steps of one epoch from `first_step` on."""
        return self._steps.epoch(
            epoch,
            first_step,
            make=_Step,
            start=self._make_room,
            crop=self._crop,
            finish=self._copy_to_device,
            deliver=self._hand_over,
        )

    def close(self) -> None:
        """End the threads and free their memory."""
        self._steps.close()

    def _hand_over(self, step: "_Step", _: Sequence["_Step"]) -> Crops:
        self.replaced += step.replaced
        return self._copy.hand_over(step.crops)

    # What follows runs in the threads.

    def _make_room(self, step: "_Step") -> None:
        plan = self._plan
        shape = (len(step.index), plan.views, plan.crop_size, plan.crop_size, 3)
        if not self._copy.pins_memory:
            # NumPy asks for huge pages: 421 page faults for 256 images of 224 pixels; PyTorch's memory takes 18,817.
            step.pixels = torch.from_numpy(np.empty(shape, np.uint8))
        else:
            # PyTorch reuses page-locked memory only after the copies from it have ended.
            step.pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def _crop(self, step: "_Step", rows: Rows) -> dict[int, ImageError]:
        scratch, pixels = self._scratch, step.pixels.numpy()
        memory = (pixels, scratch.decoder, scratch.record, scratch.image)
        good = np.zeros(len(step.index), np.bool_)
        fitting = rows[self._fits[step.index[rows]]]
        file, records = self._source.file, self._source.records
        good[fitting] = crop_records(file, records, fitting, step.index, step.draws.crop, *memory)
        refused = {row: self._crop_with_reference(step, row) for row in rows[~good[rows]].tolist()}
        return {row: error for row, error in refused.items() if error is not None}

    def _crop_with_reference(self, step: "_Step", row: int) -> ImageError | None:
        """Decode a record with the reference decoder and crop it; return the error if it is broken."""
        sample = int(step.index[row])
        try:
            image = self._source.decode(sample)
        except ImageError as error:
            return error
        crops = [crop_image(image, box, self._plan.crop_size) for box in step.draws.crop[row]]
        step.pixels[row] = torch.from_numpy(np.stack(crops))
        return None

    def _copy_to_device(self, step: "_Step") -> None:
        labels = self._source.labels[step.index]
        step.crops = self._copy.start(Crops.on_host(step.pixels, step.draws, step.index, labels))
        del step.pixels


def _beton_of(plan: CropPlan) -> Beton:
    if isinstance(plan.source, Beton):
        return plan.source
    raise ForeignFileError(
        "The ffcv backend reads .beton files alone: convert the images to one, or use another backend."
    )


@dataclass(eq=False)
class _Step(Step):
    """A step with its pixels on the host, then with the crops that are being copied to the device."""

    pixels: torch.Tensor = field(init=False)
    crops: CopiedCrops = field(init=False)


class _Scratch(threading.local):
    """Decoder and memory of each thread for one record and its pixels, freed when the thread ends."""

    def __init__(self, record_bytes: int, image_bytes: int) -> None:
        self.decoder = Decoder()
        self.record = np.empty(record_bytes, np.uint8)
        self.image = np.empty(image_bytes, np.uint8)
