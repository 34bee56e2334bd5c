"""Scheduler of the threaded backends: it makes the steps of an epoch in threads, in order, a few ahead."""

import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.errors import ImageError, RunError, UsageError
from simsiam.pipeline.loaders.replace_broken import Rows, crop_good_samples
from simsiam.pipeline.plan import CropPlan

_ROWS_PER_CALL = 16
"""Images that a thread crops in one call, at most: a call can't be interrupted, so closing waits for it."""
_CHECK_SECONDS = 0.2
"""How often a waiting consumer checks that the threads are alive."""
_CLOSE_SECONDS = 30.0
"""How long closing waits for the threads; one that waits for a lost file system is left behind."""


@dataclass(eq=False)
class Step:
    """One step under way; each backend adds what its threads make of it."""

    epoch: int
    number: int
    first_step: int
    """The step that its epoch was started at."""
    index: npt.NDArray[np.int64] = field(init=False)
    """int64 (N,): the samples, known once a call has started."""
    draws: Draws[np.ndarray] = field(init=False)
    """Their random numbers, known once a call has started."""
    replaced: int = 0
    """Broken images replaced so far."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Guards what the calls share."""
    has_started: bool = False
    calls_left: int = 0
    errors: dict[int, BaseException] = field(default_factory=dict)
    """What calls raised, by the first of their rows."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when no call is left."""
    is_cancelled: bool = False
    """Whether calls that haven't started are skipped."""


AnyStep = TypeVar("AnyStep", bound=Step)
_Call = Callable[[], None]


class StepsAhead(Generic[AnyStep]):
    """Crops the rows of each step in `threads` threads (at least one), with up to `steps` steps under way.

    A ThreadPoolExecutor won't do: when the program ends it waits for all queued calls, so a loader that was never
    closed would delay the end after an error. These threads are daemons.
    """

    def __init__(self, plan: CropPlan, threads: int, steps: int, name: str) -> None:
        self.is_closed = False
        self._plan, self._steps, threads = plan, steps, max(threads, 1)
        images = plan.batch_size // plan.world_size
        rows_per_call = min(_ROWS_PER_CALL, -(-images // threads))
        self._parts: list[Rows] = np.array_split(np.arange(images), -(-images // rows_per_call))
        # The threads hold nothing but the queue, so that they end when this object is forgotten.
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._calls,), name=f"{name}-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        self._dismiss_threads = weakref.finalize(self, _dismiss_threads, self._calls, threads)

    def epoch(
        self,
        epoch: int,
        first_step: int,
        *,
        make: Callable[[int, int, int], AnyStep],
        crop: Callable[[AnyStep, Rows], dict[int, ImageError]],
        deliver: Callable[[AnyStep, Sequence[AnyStep]], Crops],
        start: Callable[[AnyStep], None] | None = None,
        finish: Callable[[AnyStep], None] | None = None,
    ) -> Iterator[Crops]:
        """Yield the crops of each step from `first_step` on; leaving early cancels the calls that haven't started.

        Args:
            epoch: Number of the epoch.
            first_step: Step to start at.
            make: Make a step of epoch, number and first step; called in the consumer's thread.
            crop: Crop some rows and return the error of each broken one, as `crop_good_samples` asks for it; called
                in the threads, for several parts of a step at once.
            deliver: Return the crops of a step that is done; called in the consumer's thread, with the steps after it
                that are under way.
            start: Prepare a step before its first `crop`, when its samples and draws are known; called in a thread.
            finish: Complete a step after its last `crop`; called in a thread.

        Raises:
            UsageError: The loader is closed.
            RunError: A thread died.
            Exception: What a call raised, when it is its step's turn.
        """
        numbers = iter(range(first_step, len(self._plan)))
        call = partial(_crop_rows, self._plan, crop, start, finish)
        under_way: deque[AnyStep] = deque()
        try:
            while True:
                while len(under_way) < self._steps and (number := next(numbers, None)) is not None:
                    under_way.append(self._submit(make(epoch, number, first_step), call))
                if not under_way:
                    return
                self.wait(under_way[0])
                yield deliver(under_way.popleft(), under_way)
        finally:
            for step in under_way:
                step.is_cancelled = True

    def wait(self, step: AnyStep) -> None:
        """Wait until the calls of a step are done; raises what `epoch` says, each time it is called."""
        while not step.done.wait(_CHECK_SECONDS) and not self.is_closed:
            dead = [thread.name for thread in self._threads if not thread.is_alive()]
            if dead and not step.done.is_set():
                raise RunError(f"The loader thread {dead[0]} died; close the loader and open a new one.")
        self._check_open()
        if step.errors:
            error = step.errors[min(step.errors)]
            if isinstance(error, Exception):
                raise error
            # It was meant for the thread: here SystemExit would end the program, and GeneratorExit the epoch.
            raise RunError(f"A loader thread was ended by {type(error).__name__}.")

    def close(self) -> None:
        """Drop the calls that haven't started, and end the threads."""
        self._dismiss_threads()
        self.is_closed = True
        last = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0, last - time.monotonic()))

    def _check_open(self) -> None:
        if self.is_closed:
            raise UsageError("This loader is closed; open a new one.")

    def _submit(self, step: AnyStep, call: Callable[[AnyStep, Rows], None]) -> AnyStep:
        self._check_open()
        step.calls_left = len(self._parts)
        for rows in self._parts:
            self._calls.put(partial(call, step, rows))
        return step


def _work(calls: SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        del call  # while waiting for the next one, nothing of the step is held


def _dismiss_threads(calls: SimpleQueue[_Call | None], threads: int) -> None:
    with contextlib.suppress(Empty):
        while True:
            calls.get_nowait()
    for _ in range(threads):
        calls.put(None)


def _crop_rows(
    plan: CropPlan,
    crop: Callable[[AnyStep, Rows], dict[int, ImageError]],
    start: Callable[[AnyStep], None] | None,
    finish: Callable[[AnyStep], None] | None,
    step: AnyStep,
    rows: Rows,
) -> None:
    """Crop some rows of a step, in a thread; errors are kept in the step."""
    if step.is_cancelled:
        return
    try:
        with step.lock:
            if not step.has_started:
                plan.source.read_ahead(plan.read_ahead(step.epoch, step.first_step, step.number))
                step.index, step.draws = plan.step(step.epoch, step.number)
                if start:
                    start(step)
                step.has_started = True
        replaced = crop_good_samples(plan, step.epoch, step.index, step.draws, rows, partial(crop, step))
        with step.lock:
            step.replaced += replaced
    except BaseException as error:
        step.errors[int(rows[0])] = error
    with step.lock:
        step.calls_left -= 1
        if step.calls_left:
            return
    try:
        if finish and not step.errors:
            finish(step)
    except BaseException as error:
        step.errors[0] = error
    step.done.set()
