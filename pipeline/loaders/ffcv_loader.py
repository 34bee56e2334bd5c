"""A `.beton` file and a plan → crops: the decoder that FFCV brings and our resizer, compiled, in our own threads."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from simsiam.pipeline.beton.layout import RAW
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.decode import most_pixels
from simsiam.pipeline.errors import ImageError, UsageError
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
"""Steps in the making: bounds the memory."""


class FfcvLoader(CropLoader):
    """Decodes each record once, in `threads` threads (at least one), and takes its crops from the decoded pixels.

    Reading, decoding and cropping up to 16 images is one compiled call that holds no lock of Python's. One call for
    each routine and image is as fast in itself, but 16 threads of it, taking the lock 30,000 times a second, halved
    the rate at which another thread could launch operations (imitated on 2 cores). The threads are up to two steps
    ahead; on a CUDA device they copy a finished step there on a stream of its own.

    A record that the decoder returns an error or a warning for is the reference decoder's, so that every backend takes
    the same for broken. `plan.on_broken` says what happens then: an `ImageError` naming the image, or the next good one
    instead, counted in `replaced`.

    Images are always decoded in full size: half size, where both crops are at least twice the output's size, moves
    crops by up to 9 grey levels.

    Raises UsageError when the source is no `.beton`.
    """

    def __init__(
        self, plan: CropPlan, device: torch.device, workers: int = 0, progress: Progress | None = None
    ) -> None:
        self._plan, self._source = plan, _beton_of(plan)
        records = self._source.records
        pixels = records.sizes.astype(np.int64).prod(axis=1)
        # A decompression bomb is the reference decoder's to refuse; pixels that are stored need none.
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
            # NumPy asks for huge pages: 421 page faults a step of 256 images of 224 pixels, PyTorch's memory 18,817.
            step.pixels = torch.from_numpy(np.empty(shape, np.uint8))
        else:
            # PyTorch gives page-locked memory out again only when the copies from it have ended.
            step.pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)

    def _crop(self, step: "_Step", rows: Rows) -> dict[int, ImageError]:
        scratch, pixels = self._scratch, step.pixels.numpy()
        memory = (pixels, scratch.decoder, scratch.record, scratch.image)
        good = np.zeros(len(step.index), np.bool_)
        ours = rows[self._fits[step.index[rows]]]
        good[ours] = crop_records(self._source.file, self._source.records, ours, step.index, step.draws.crop, *memory)
        refused = {row: self._crop_with_reference(step, row) for row in rows[~good[rows]].tolist()}
        return {row: error for row, error in refused.items() if error is not None}

    def _crop_with_reference(self, step: "_Step", row: int) -> ImageError | None:
        """Have the reference decoder decide on a record that this one can't or won't decode; return what it says."""
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
        step.crops = self._copy.begin(Crops.on_host(step.pixels, step.draws, step.index, labels))
        del step.pixels


def _beton_of(plan: CropPlan) -> Beton:
    if isinstance(plan.source, Beton):
        return plan.source
    raise UsageError("The ffcv backend reads .beton files alone: convert the images to one, or use another backend.")


@dataclass(eq=False)
class _Step(Step):
    """What the threads make: pixels on the host, then crops on their way to the device."""

    pixels: torch.Tensor = field(init=False)
    crops: CopiedCrops = field(init=False)


class _Scratch(threading.local):
    """Decoder and memory of each thread for one record and its pixels; goes when the thread does."""

    def __init__(self, record_bytes: int, image_bytes: int) -> None:
        self.decoder = Decoder()
        self.record = np.empty(record_bytes, np.uint8)
        self.image = np.empty(image_bytes, np.uint8)
