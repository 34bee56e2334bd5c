"""The dali backend: DALI decodes and crops JPEGs, on the GPU if there is one; the reference decoder does the rest."""

import contextlib
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.decode import decode_reduced
from simsiam.pipeline.errors import ImageError, RawRecordError, RunError
from simsiam.pipeline.loaders.backend_package import backend_package
from simsiam.pipeline.loaders.device_copy import upload
from simsiam.pipeline.loaders.reference_crop import crop_image
from simsiam.pipeline.loaders.replace_broken import Rows, crop_good_samples
from simsiam.pipeline.loaders.steps_ahead import Step, StepsAhead
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.progress import Progress

with backend_package("dali", "nvidia-dali-cuda130"):
    from simsiam.pipeline.loaders.dali_pipeline import QUEUE, DaliPipeline, reads_like_pillow, reason

_STEPS = 2 * QUEUE
"""Steps under way, half of them in DALI: bounds the memory."""


class DaliLoader(CropLoader):
    """DALI decodes each JPEG once and crops the decoded pixels, in `workers` threads (at least one).

    On a CUDA device, `hw_decoder_load` is the share of the images that the GPU's JPEG engine decodes, if it has one; 0
    to 1.

    DALI gets complete JPEGs of the usual kinds only. All else (PNG, GIF, CMYK, a truncated file, pixels of a `.beton`,
    …), which it may decode differently from Pillow or not at all, goes through the reference decoder and the reference
    crop. They return the reference's pixels or say what is wrong with the image. A broken image is an `ImageError`
    that names it, or is replaced by the next good one and counted in `replaced`, as `plan.on_broken` says.

    DALI doesn't report corrupt data in a JPEG, so each JPEG is checked when this loader first reads it: 1.0 core-ms
    for a photograph of 110 kB (2-core Xeon VM), two thirds of decoding it. From then on its checksum shows whether it
    is still the same (0.04 core-ms).

    Raises RunError when DALI doesn't work on the device, or fails on images that the reference decoder accepts.
    """

    def __init__(
        self,
        plan: CropPlan,
        device: torch.device,
        workers: int = 0,
        progress: Progress | None = None,
        *,
        hw_decoder_load: float = 0.65,
    ) -> None:
        self._plan, self._device = plan, device
        self._images = plan.batch_size // plan.world_size
        self._open_pipeline = partial(
            DaliPipeline, device, max(workers, 1), self._images, plan.views, plan.crop_size, hw_decoder_load
        )
        self._pipeline = self._open_pipeline()
        self._in_dali: deque[_Step] = deque()
        self._sound_crc32 = np.zeros(len(plan.source), np.uint32)  # 0: not checked yet
        self._steps: StepsAhead[_Step] = StepsAhead(plan, workers, _STEPS, "dali-reader")

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return len(self._plan)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield the steps of one epoch from `first_step` on."""
        return self._steps.epoch(epoch, first_step, make=_Step, crop=self._read_rows, deliver=self._deliver)

    def close(self) -> None:
        """End the threads and free DALI's memory."""
        if not self._steps.is_closed:
            self._steps.close()
            self._pipeline.close()
            self._in_dali.clear()

    # These run in the reading threads.

    def _read_rows(self, step: "_Step", rows: Rows) -> dict[int, ImageError]:
        return _errors_of(rows, lambda row: self._read(step, row))

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
        """Return whether a JPEG's data isn't corrupt; decodes it at an eighth of its size."""
        crc32 = zlib.crc32(encoded)
        if not crc32 or self._sound_crc32[sample] != crc32:
            if decode_reduced(encoded, 1, 1) is None:
                return False
            self._sound_crc32[sample] = crc32
        return True

    # These run in the consumer's thread, the only one that calls DALI.

    def _deliver(self, step: "_Step", later: Sequence["_Step"]) -> Crops:
        self._start(step)
        for next_step in islice(later, QUEUE - 1):
            with contextlib.suppress(ImageError):  # raised again in its turn
                self._start(next_step)
        return self._finish(step)

    def _start(self, step: "_Step") -> None:
        """Wait until a step is read and give its JPEGs to DALI, unless that was done before."""
        if not step.given_to_dali:
            self._steps.wait(step)
            step.given_to_dali = True
            self._give_to_dali(step)

    def _finish(self, step: "_Step") -> Crops:
        self._wait_for_dali(step)
        if step.failure and self._replace_broken(step):
            step.failure = ""
            self._give_to_dali(step)
            self._wait_for_dali(step)
        if step.failure:
            raise RunError(
                f"DALI fails on step {step.number} of epoch {step.epoch} ({step.failure}), but the reference decoder"
                " accepts all of its images; use the torch backend."
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
        while len(self._in_dali) >= QUEUE:  # steps of another epoch, which was left early or runs next to this one
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
        return upload(array, self._device)

    def _feed(self, step: "_Step") -> None:
        rows = sorted(step.jpegs)
        self._pipeline.feed([step.jpegs[row] for row in rows], step.draws.crop[rows])

    def _take(self, step: "_Step") -> None:
        views = self._pipeline.take()
        # DALI reuses its memory, so the crops are copied to PyTorch's, in the order of the consumer's stream.
        step.pixels = self._empty_pixels()
        rows = slice(None) if len(step.jpegs) == self._images else self._upload(np.array(sorted(step.jpegs)))
        for view, crops in enumerate(views):
            step.pixels[rows, view] = crops

    def _redo(self) -> None:
        """Run each step that was lost with the pipeline by itself: DALI doesn't say which of them it failed on."""
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
        """Have the reference decoder find the broken images of a step that DALI failed on.

        Returns how many were replaced, or raises the ImageError of the first.
        """

        def read_if_decodable(row: int) -> None:
            step.jpegs.pop(row, None)
            self._plan.source.decode(int(step.index[row]))
            self._read(step, row)

        rows = np.array(sorted(step.jpegs))
        replaced = crop_good_samples(
            self._plan, step.epoch, step.index, step.draws, rows, partial(_errors_of, call=read_if_decodable)
        )
        step.replaced += replaced
        return replaced


def _errors_of(rows: Rows, call: Callable[[int], None]) -> dict[int, ImageError]:
    """Call `call(row)` for each of the rows, and return the error of each whose image is broken."""
    errors = {}
    for row in rows.tolist():
        try:
            call(row)
        except ImageError as error:
            errors[row] = error
    return errors


@dataclass(eq=False)
class _Step(Step):
    """A step with what the threads read and what DALI returned."""

    jpegs: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """By row: encoded bytes that DALI decodes."""
    others: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """By row: the reference crops of all other images, uint8 (V, S, S, 3)."""
    given_to_dali: bool = False
    pixels: torch.Tensor | None = None
    failure: str = ""
    """DALI's message when it failed on this step by itself."""
