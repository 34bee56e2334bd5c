"""A plan → crops: DALI decodes and crops the JPEGs, on the GPU where there is one, the reference decoder the rest."""

import contextlib
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.decode import decode_reduced
from simsiam.pipeline.errors import ImageError, RawRecordError, RunError, UsageError
from simsiam.pipeline.loaders.dali_pipeline import QUEUE, DaliPipeline, reads_like_pillow, reason
from simsiam.pipeline.loaders.reference_crop import crop_image
from simsiam.pipeline.loaders.replace_broken import Rows, crop_good_samples
from simsiam.pipeline.loaders.thread_crew import Job, ThreadCrew
from simsiam.pipeline.plan import CropPlan

_STEPS_AHEAD = 2 * QUEUE
"""Steps in the making, half of them in DALI's hands: bounds the memory."""
_ROWS_A_CALL = 16
"""Images that one thread reads at a time."""


class DaliLoader:
    """Has DALI decode each JPEG once and take its crops from the decoded pixels, in `threads` threads (at least one).

    On a CUDA device `hw_decoder_load` is the share of the images that the GPU's JPEG engine decodes, if it has one.

    What DALI might decode otherwise than Pillow, or not at all, never reaches it: all but complete JPEGs of the usual
    kinds (PNG, GIF, CMYK, a truncated file, pixels of a `.beton`, …) goes through the reference decoder and the
    reference crop. They give the reference's pixels, or say what is wrong with the image. `plan.on_broken` says what
    happens then: an `ImageError` naming the image, or the next good one instead, counted in `replaced`. DALI says
    nothing of a JPEG with data that makes no sense, so each is looked through the first time this loader reads it: 1.0
    core-ms for a photograph of 110 kB (2-core Xeon VM), two thirds of decoding it. Later its checksum tells whether it
    is still the same (0.04).

    Raises RunError when DALI can't work on the device, or fails on images that the reference decoder finds good.
    """

    replaced: int = 0
    """Broken images so far that another one stood in for."""

    def __init__(self, plan: CropPlan, device: torch.device, threads: int, hw_decoder_load: float = 0.65) -> None:
        if not 0 <= hw_decoder_load <= 1:
            raise UsageError(f"hw_decoder_load is a share of the images: give 0 to 1, not {hw_decoder_load}.")
        self._plan, self._device, threads = plan, device, max(threads, 1)
        self._images = plan.batch_size // plan.world_size
        self._parts: list[Rows] = np.array_split(np.arange(self._images), -(-self._images // _ROWS_A_CALL))
        self._open_pipeline = partial(
            DaliPipeline, device, threads, self._images, plan.views, plan.crop_size, hw_decoder_load
        )
        self._pipeline = self._open_pipeline()
        self._in_dali: deque[_Step] = deque()
        self._sound_crc32 = np.zeros(len(plan.source), np.uint32)  # 0: not looked through
        self._crew: ThreadCrew | None = ThreadCrew(threads, "dali-reader")

    @staticmethod
    def check(plan: CropPlan) -> None:
        """Refuse nothing: every source can be read."""

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
                while len(under_way) < _STEPS_AHEAD and (number := next(numbers, None)) is not None:
                    step = _Step(epoch, number, first_step)
                    step.jobs = [crew.submit(partial(self._prepare, step, rows)) for rows in self._parts]
                    under_way.append(step)
                if not under_way:
                    return
                self._start(under_way[0])
                for step in islice(under_way, 1, QUEUE):
                    with contextlib.suppress(ImageError):  # raised again when it is this step's turn
                        self._start(step)
                yield self._finish(under_way.popleft())
        finally:
            for step in under_way:
                for job in step.jobs:
                    job.cancel()

    def close(self) -> None:
        """End the threads and free DALI's memory."""
        if self._crew is not None:
            self._crew.close()
            self._pipeline.close()
        self._crew = None
        self._in_dali.clear()

    def _open_crew(self) -> ThreadCrew:
        if self._crew is None:
            raise UsageError("This loader is closed; open a new one.")
        return self._crew

    # These run in the reading threads.

    def _prepare(self, step: "_Step", rows: Rows) -> None:
        with step.lock:
            if not step.begun:
                self._begin(step)
        replaced = self._for_good_samples(step, rows, self._read)
        with step.lock:
            step.replaced += replaced

    def _for_good_samples(self, step: "_Step", rows: Rows, call: Callable[["_Step", int], None]) -> int:
        """Call `call(step, row)` for these rows, again where `plan.on_broken` replaces the sample; return how many."""

        def call_all(rows: Rows) -> dict[int, ImageError]:
            errors = {}
            for row in rows.tolist():
                try:
                    call(step, row)
                except ImageError as error:
                    errors[row] = error
            return errors

        return crop_good_samples(self._plan, step.epoch, step.index, step.draws, rows, call_all)

    def _begin(self, step: "_Step") -> None:
        plan = self._plan
        if isinstance(plan.source, Beton):
            plan.source.read_ahead(plan.read_ahead(step.epoch, step.first, step.number))
        step.index = plan.indices(step.epoch, step.number).copy()  # a slice of the cached order, which mustn't change
        step.draws = plan.draws(step.epoch, step.index)
        step.begun = True

    def _read(self, step: "_Step", row: int) -> None:
        source, sample = self._plan.source, int(step.index[row])
        try:
            encoded = source.read(sample)
        except RawRecordError:
            encoded = b""
        if reads_like_pillow(encoded, *source.sizes[sample].tolist()) and self._is_sound(sample, encoded):
            step.jpegs[row] = np.frombuffer(encoded, np.uint8)
        else:
            image = source.decode(sample)
            step.others[row] = np.stack([crop_image(image, box, self._plan.crop_size) for box in step.draws.crop[row]])

    def _is_sound(self, sample: int, encoded: bytes) -> bool:
        """Tell whether all of a JPEG's data makes sense; hardly anything is computed from it."""
        crc32 = zlib.crc32(encoded)
        if not crc32 or self._sound_crc32[sample] != crc32:
            if decode_reduced(encoded, 1, 1) is None:
                return False
            self._sound_crc32[sample] = crc32
        return True

    # These run in the consumer's thread, the only one that speaks with DALI.

    def _start(self, step: "_Step") -> None:
        """Wait until a step is read, and have DALI begin with its JPEGs, unless it has already."""
        if not step.started:
            self._open_crew().wait(step.jobs)
            self._open_crew()  # what a closed crew has dropped counts as done
            step.started = True
            self._give_to_dali(step)

    def _finish(self, step: "_Step") -> Crops:
        self._wait_for_dali(step)
        if step.failure and self._replace_broken(step):
            step.failure = ""
            self._give_to_dali(step)
            self._wait_for_dali(step)
        if step.failure:
            raise RunError(
                f"DALI fails on step {step.number} of epoch {step.epoch} ({step.failure}), though the reference"
                " decoder takes all of its images; use the torch backend."
            )
        pixels = step.pixels if step.pixels is not None else self._empty_pixels()
        if step.others:
            rows = self._upload(np.array(list(step.others)))
            pixels[rows] = self._upload(np.stack(list(step.others.values())))
        self.replaced += step.replaced
        return Crops(
            pixels,
            Draws(*(self._upload(part) for part in step.draws)),
            self._upload(step.index),
            self._upload(self._plan.source.labels[step.index]),
        )

    def _give_to_dali(self, step: "_Step") -> None:
        if not step.jpegs:
            return
        while len(self._in_dali) >= QUEUE:  # steps of another epoch, left early or side by side with this one
            self._wait_for_dali(self._in_dali[0])
        self._in_dali.append(step)
        try:
            self._feed(step)
        except Exception:
            self._redo()

    def _wait_for_dali(self, step: "_Step") -> None:
        while step in self._in_dali:
            try:
                self._take(self._in_dali[0])
            except Exception:
                self._redo()
            else:
                self._in_dali.popleft()

    def _empty_pixels(self) -> torch.Tensor:
        size = self._plan.crop_size
        return torch.empty((self._images, self._plan.views, size, size, 3), dtype=torch.uint8, device=self._device)

    def _upload(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor

    def _feed(self, step: "_Step") -> None:
        rows = sorted(step.jpegs)
        self._pipeline.feed([step.jpegs[row] for row in rows], step.draws.crop[rows])

    def _take(self, step: "_Step") -> None:
        views = self._pipeline.take()
        # DALI uses its memory anew; this is PyTorch's, filled in the order of the consumer's stream.
        step.pixels = self._empty_pixels()
        rows = slice(None) if len(step.jpegs) == self._images else self._upload(np.array(sorted(step.jpegs)))
        for view, crops in enumerate(views):
            step.pixels[rows, view] = crops

    def _redo(self) -> None:
        """Give each step that died with the pipeline a try of its own: DALI doesn't say which of them it was."""
        self._renew_pipeline()
        while self._in_dali:
            step = self._in_dali.popleft()
            try:
                self._feed(step)
                self._take(step)
            except Exception as error:
                step.failure = reason(error)
                self._renew_pipeline()

    def _renew_pipeline(self) -> None:
        self._pipeline.close()  # first, for its memory
        self._pipeline = self._open_pipeline()

    def _replace_broken(self, step: "_Step") -> int:
        """Ask the reference decoder what DALI failed on; return how many images were replaced, or raise their error."""

        def check(step: _Step, row: int) -> None:
            step.jpegs.pop(row, None)
            self._plan.source.decode(int(step.index[row]))
            self._read(step, row)

        replaced = self._for_good_samples(step, np.array(sorted(step.jpegs)), check)
        step.replaced += replaced
        return replaced


@dataclass(eq=False)
class _Step:
    """One step in the making: read by the threads, then given to DALI, then taken back."""

    epoch: int
    number: int
    first: int
    """The step that the epoch was begun at."""
    jobs: list[Job] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: bool = False
    index: npt.NDArray[np.int64] = field(init=False)
    draws: Draws[np.ndarray] = field(init=False)
    jpegs: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """By row: what DALI decodes."""
    others: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """By row: the reference's crops of the rest, uint8 (V, S, S, 3)."""
    replaced: int = 0
    started: bool = False
    """Whether DALI has got its part."""
    pixels: torch.Tensor | None = None
    failure: str = ""
    """What DALI said when it failed on this step alone."""
