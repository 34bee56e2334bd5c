"""The torch backend, which runs anywhere: the reference decoder and the reference crop in worker processes."""

import atexit
import contextlib
import re
import signal
import warnings
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.errors import DeadLoaderWorkerError, ImageError, RunError, UsageError
from simsiam.pipeline.loaders.device_copy import DeviceCopy
from simsiam.pipeline.loaders.reference_crop import crop_image
from simsiam.pipeline.loaders.replace_broken import Rows, crop_good_samples
from simsiam.pipeline.loaders.shared_memory import STEPS_AHEAD, too_little, workers_that_fit
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.progress import Progress


class TorchLoader(CropLoader):
    """Decodes each image once and crops the decoded pixels, in `workers` processes (0: in this one).

    A broken image is an `ImageError` that names it, or is replaced by the next good one and counted in `replaced`, as
    `plan.on_broken` says. A worker that dies (killed, out of memory, a crash in the decoder) is a DeadLoaderWorkerError
    naming the images being read. Only one epoch can be iterated at a time; continuing an older iterator raises
    UsageError.

    Crops come through shared memory. Where it has too little room for `workers`, a warning says so and fewer are
    started, perhaps none; where it is used up later, that is a RunError.
    """

    def __init__(
        self,
        plan: CropPlan,
        device: torch.device,
        workers: int = 0,
        progress: Progress | None = None,
        processes: int = 1,
    ) -> None:
        """Open the loader; `processes` of this machine, each with as many workers, share its memory."""
        self._plan = plan
        self._copy = DeviceCopy(device)
        if (fitting := workers_that_fit(plan, workers, processes)) < workers:
            warnings.warn(f"{too_little(plan, workers, processes)}; {_how_many(fitting)}", stacklevel=2)
            workers = fitting
        # The sample that each worker is reading, in memory shared with it, so that it can be read after its death.
        self._reading = torch.full((max(workers, 1),), -1, dtype=torch.int64).share_memory_()
        self._steps = _EpochSteps()
        self._loader: DataLoader | None = DataLoader(
            _StepReader(plan, self._reading),
            batch_size=None,  # one item is one step already
            sampler=self._steps,
            num_workers=workers,
            prefetch_factor=STEPS_AHEAD if workers else None,
            collate_fn=_as_it_is,
            worker_init_fn=leave_stopping_to_the_parent,
            pin_memory=self._copy.pins_memory,
            persistent_workers=workers > 0,
        )
        _open_loaders.add(self)

    def __len__(self) -> int:
        """Steps in an epoch, equal on every rank."""
        return len(self._plan)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Crops]:
        """Yield the steps of one epoch from `first_step` on."""
        for crops, replaced in self._copy.ahead(self._read(epoch, first_step)):
            self.replaced += replaced
            yield crops

    def _read(self, epoch: int, first_step: int) -> Iterator[tuple[Crops, int]]:
        """Yield the crops of each step on the host, and how many of its images were replaced."""
        if self._loader is None:
            raise UsageError("This loader is closed; open a new one.")
        steps = [(epoch, step) for step in range(first_step, len(self))]
        self._steps.ahead = steps
        # PyTorch's SIGCHLD handler would raise an error without a name anywhere in the program. Without the handler,
        # the death of a worker is noticed in next(), a few seconds later, where the image can be named.
        handler = signal.getsignal(signal.SIGCHLD)
        batches = iter(self._loader)
        with contextlib.suppress(ValueError):  # not the main thread, so PyTorch has set no handler either
            signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
        while True:
            # With workers, PyTorch has only one iterator, and resets it for a new epoch.
            if self._steps.ahead is not steps:
                raise UsageError(f"A newer epoch was started; call epoch({epoch}, …) again to resume this one.")
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise self._explain(error) from None
            if isinstance(batch, (ImageError, RunError)):
                raise type(batch)(*batch.args)  # a new one: a local would keep this frame and the workers alive
            yield batch

    def close(self) -> None:
        """Stop the worker processes."""
        # PyTorch stops them when the iterator is collected, which a traceback can delay; there is no public method.
        iterator = getattr(self._loader, "_iterator", None)
        if iterator is not None:
            iterator._shutdown_workers()
            for worker in iterator._workers:
                worker.kill()  # one that is stuck; the others have ended
        self._loader = None

    def _explain(self, error: RuntimeError) -> RuntimeError:
        pids = re.search(r"worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        if pids is None:
            return error
        names = [self._plan.source.name(index) for index in self._reading.tolist() if index >= 0]
        return DeadLoaderWorkerError(
            f"A loader process (pid {pids[1]}) died. The images being read were: {', '.join(names)}."
            " If it was killed for memory, use fewer workers or a smaller batch."
        )


def leave_stopping_to_the_parent(worker: int) -> None:
    """Ignore SIGTERM and SIGINT in a worker process of a DataLoader; its `worker_init_fn`."""
    # torchrun and a terminal signal the whole process group, but the parent still wants to finish its step and save.
    # A worker whose parent has died notices that by itself.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


_open_loaders: "weakref.WeakSet[TorchLoader]" = weakref.WeakSet()


# At the end of a program, multiprocessing sends SIGTERM to workers that still run, and waits for them; but they ignore
# it. Functions are called in reverse order, so this one, registered after multiprocessing's, comes first.
@atexit.register
def _close_open_loaders() -> None:
    for loader in list(_open_loaders):
        loader.close()


class _EpochSteps:
    """The (epoch, step) pairs to read; workers outlive an epoch, so this sampler is refilled for each."""

    def __init__(self) -> None:
        self.ahead: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.ahead)

    def __len__(self) -> int:
        return len(self.ahead)


class _StepReader(Dataset):
    """Data set of the workers: (epoch, step) → the crops of that step."""

    def __init__(self, plan: CropPlan, reading: torch.Tensor) -> None:
        self._plan = plan
        self._reading = reading

    # An error is returned as an item, since PyTorch would wrap its message into the worker's traceback.
    def __getitem__(self, position: tuple[int, int]) -> tuple[Crops, int] | ImageError | RunError:
        try:
            crops, replaced = self._crops(*position)
        except ImageError as error:
            return error
        if get_worker_info():
            # PyTorch would share them in a thread of the worker, whose errors reach nobody: the parent would wait for
            # ever.
            try:
                for tensor in (crops.pixels, *crops.draws, crops.index, crops.label):
                    tensor.share_memory_()
            except RuntimeError as error:
                return RunError(f"A loader process can't hand over its crops ({error}); {too_little(self._plan, 1)}.")
        return crops, replaced

    def _crops(self, epoch: int, step: int) -> tuple[Crops, int]:
        """Return the step's crops and how many of its images were replaced."""
        plan = self._plan
        index, draws = plan.step(epoch, step)
        pixels = torch.empty((len(index), plan.views, plan.crop_size, plan.crop_size, 3), dtype=torch.uint8)
        crop = partial(self._crop, index, draws, pixels)
        replaced = crop_good_samples(plan, epoch, index, draws, np.arange(len(index)), crop)
        return Crops.on_host(pixels, draws, index, plan.source.labels[index]), replaced

    def _crop(
        self, index: npt.NDArray[np.int64], draws: Draws[np.ndarray], pixels: torch.Tensor, rows: Rows
    ) -> dict[int, ImageError]:
        worker = get_worker_info()
        slot = worker.id if worker else 0
        errors: dict[int, ImageError] = {}
        for row in rows.tolist():
            self._reading[slot] = int(index[row])
            try:
                image = self._plan.source.decode(int(index[row]))
            except ImageError as error:
                errors[row] = error
                continue
            for view in range(self._plan.views):
                pixels[row, view] = torch.from_numpy(crop_image(image, draws.crop[row, view], self._plan.crop_size))
        self._reading[slot] = -1
        return errors


def _how_many(workers: int) -> str:
    if workers == 0:
        return "the images are read in this process instead"
    return f"{workers} {'is' if workers == 1 else 'are'} started instead"


def _as_it_is(batch: Any) -> Any:
    return batch
