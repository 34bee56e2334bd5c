"""A `.beton` file and a plan → crops: the decoder that FFCV brings and our resizer, compiled, in our own threads."""

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.beton.layout import RAW
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.decode import most_pixels
from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.loaders.device_copy import CopiedCrops, DeviceCopy
from simsiam.pipeline.loaders.ffcv_routines import Decoder, crop_records
from simsiam.pipeline.loaders.reference_crop import crop_image
from simsiam.pipeline.loaders.replace_broken import Rows, crop_good_samples
from simsiam.pipeline.loaders.thread_crew import Job, ThreadCrew
from simsiam.pipeline.plan import CropPlan

_STEPS_AHEAD = 2
"""Steps in the making while the consumer has one: bounds the memory."""
_ROWS_A_CALL = 16
"""Images of one compiled call at most: Python's lock is taken once a call, and closing waits for one."""


class FfcvLoader:
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

    replaced: int = 0
    """Broken images so far that another one stood in for."""

    def __init__(self, plan: CropPlan, device: torch.device, threads: int) -> None:
        self.check(plan)
        assert isinstance(plan.source, Beton)
        self._plan, self._source = plan, plan.source
        threads, share = max(threads, 1), plan.batch_size // plan.world_size
        rows_a_call = min(_ROWS_A_CALL, -(-share // threads))
        self._parts: list[Rows] = np.array_split(np.arange(share), -(-share // rows_a_call))
        records = plan.source.records
        pixels = records.sizes.astype(np.int64).prod(axis=1)
        # A decompression bomb is the reference decoder's to refuse; pixels that are stored need none.
        self._fits = (records.modes == RAW) | (pixels <= most_pixels())
        longest = records.lengths[self._fits & (records.modes != RAW)].max(initial=1)
        self._scratch = _Scratch(int(longest), int(pixels[self._fits].max(initial=1)) * 3)
        self._copy = DeviceCopy(device)
        self._crew: ThreadCrew | None = ThreadCrew(threads, "ffcv")

    @staticmethod
    def check(plan: CropPlan) -> None:
        """Raise UsageError unless the plan's source is a `.beton`."""
        if not isinstance(plan.source, Beton):
            raise UsageError(
                "The ffcv backend reads .beton files alone: `simsiam convert` makes one of a folder, or use another"
                " backend."
            )

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return len(self._plan)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield the steps of one epoch from `first_step` on."""
        numbers = iter(range(first_step, len(self)))
        under_way: deque[_Step] = deque()
        try:
            while True:
                crew = self._open_crew()
                while len(under_way) <= _STEPS_AHEAD and (number := next(numbers, None)) is not None:
                    step = _Step(epoch, number, first_step, len(self._parts))
                    step.jobs = [crew.submit(partial(self._work_on, step, rows)) for rows in self._parts]
                    under_way.append(step)
                if not under_way:
                    return
                crew.wait(under_way[0].jobs)
                self._open_crew()  # what a closed crew has dropped counts as done
                yield self._hand_over(under_way.popleft())
        finally:
            for step in under_way:
                for job in step.jobs:
                    job.cancel()

    def close(self) -> None:
        """End the threads and free their memory."""
        if self._crew is not None:
            self._crew.close()
        self._crew = None

    def _open_crew(self) -> ThreadCrew:
        if self._crew is None:
            raise UsageError("This loader is closed; open a new one.")
        return self._crew

    def _hand_over(self, step: "_Step") -> Crops:
        self.replaced += step.replaced
        return self._copy.hand_over(step.crops)

    # What follows runs in the threads.

    def _work_on(self, step: "_Step", rows: Rows) -> None:
        with step.lock:
            if not step.begun:
                self._begin(step)
        crop = partial(self._crop, step)
        replaced = crop_good_samples(self._plan, step.epoch, step.index, step.draws, rows, crop)
        with step.lock:
            step.replaced += replaced
            step.parts_to_do -= 1
            done = step.parts_to_do == 0
        if done:
            self._finish(step)

    def _begin(self, step: "_Step") -> None:
        plan = self._plan
        self._source.read_ahead(plan.read_ahead(step.epoch, step.first, step.number))
        step.index = plan.indices(step.epoch, step.number).copy()  # a slice of the cached order, which mustn't change
        step.draws = plan.draws(step.epoch, step.index)
        shape = (len(step.index), plan.views, plan.crop_size, plan.crop_size, 3)
        if not self._copy.pins_memory:
            # NumPy asks for huge pages: 421 page faults a step of 256 images of 224 pixels, PyTorch's memory 18,817.
            step.pixels = torch.from_numpy(np.empty(shape, np.uint8))
        else:
            # PyTorch gives page-locked memory out again only when the copies from it have ended.
            step.pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        step.begun = True

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

    def _finish(self, step: "_Step") -> None:
        crops = Crops(
            step.pixels,
            Draws(*(torch.from_numpy(part) for part in step.draws)),
            torch.from_numpy(step.index),
            torch.from_numpy(self._source.labels[step.index]),
        )
        step.crops = self._copy.begin(crops)
        del step.pixels


@dataclass
class _Step:
    """One step in the making: first what the loader knows of it, then what the threads make."""

    epoch: int
    number: int
    first: int
    """The step that the epoch was begun at."""
    parts_to_do: int
    jobs: list[Job] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: bool = False
    index: np.ndarray = field(init=False)
    draws: Draws[np.ndarray] = field(init=False)
    pixels: torch.Tensor = field(init=False)
    replaced: int = 0
    crops: CopiedCrops = field(init=False)


class _Scratch(threading.local):
    """Decoder and memory of each thread for one record and its pixels; goes when the thread does."""

    def __init__(self, record_bytes: int, image_bytes: int) -> None:
        self.decoder = Decoder()
        self.record = np.empty(record_bytes, np.uint8)
        self.image = np.empty(image_bytes, np.uint8)
