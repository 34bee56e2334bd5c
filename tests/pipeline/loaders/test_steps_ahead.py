import ctypes
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.errors import ImageError, RunError, UsageError
from simsiam.pipeline.loaders.steps_ahead import Step, StepsAhead
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.synthetic_source import SyntheticSource
from tests.pipeline.wait_until import wait_until

BATCH = 4


def plan(steps: int) -> CropPlan:
    return CropPlan(SyntheticSource(steps * BATCH), Augmentation(), crop_size=8, batch_size=BATCH)


@pytest.fixture
def ahead() -> Iterator[StepsAhead]:
    """Six steps an epoch, three of them under way, in one thread: a step is one call."""
    opened = StepsAhead(plan(6), threads=1, steps=3, name="test")
    yield opened
    opened.close()


def steps_of(
    ahead: StepsAhead,
    crop: Callable[[Step, Any], dict[int, ImageError]] = lambda step, rows: {},
    deliver: Callable[[Step, Sequence[Step]], Any] = lambda step, later: step.number,
    epoch: int = 0,
    first_step: int = 0,
    **hooks: Callable[[Step], None],
) -> Iterator[Any]:
    return ahead.epoch(epoch, first_step, make=Step, crop=crop, deliver=deliver, **hooks)


def noted_numbers(into: list[int]) -> Callable[[Step, Any], dict[int, ImageError]]:
    def crop(step: Step, rows: Any) -> dict[int, ImageError]:
        into.append(step.number)
        return {}

    return crop


def kill(thread: int) -> None:
    """End a thread at its next bytecode by SystemExit."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(SystemExit))


def test_steps_come_in_order_from_the_first_one_asked_for(ahead: StepsAhead) -> None:
    made: list[int] = []
    assert list(steps_of(ahead, noted_numbers(made), first_step=2)) == [2, 3, 4, 5]
    assert made == [2, 3, 4, 5]


def test_every_row_of_a_step_is_cropped_once_between_its_start_and_its_finish() -> None:
    ahead = StepsAhead(CropPlan(SyntheticSource(100), Augmentation(), 8, 50), threads=3, steps=2, name="test")
    events: dict[int, list[Any]] = {0: [], 1: []}
    steps = steps_of(
        ahead,
        lambda step, rows: events[step.number].extend(rows.tolist()) or {},
        start=lambda step: events[step.number].append(("start", len(step.index), len(step.draws.crop))),
        finish=lambda step: events[step.number].append("finish"),
    )
    assert list(steps) == [0, 1]
    for start, *rows, finish in events.values():
        assert (start, finish) == (("start", 50, 50), "finish")
        assert sorted(rows) == list(range(50))
    ahead.close()


def test_no_more_steps_are_under_way_than_allowed(ahead: StepsAhead) -> None:
    later = list(steps_of(ahead, deliver=lambda _, later: [step.number for step in later]))
    assert later == [[1, 2], [2, 3], [3, 4], [4, 5], [5], []]


def test_a_step_is_cropped_by_several_threads_at_once() -> None:
    ahead, meeting = StepsAhead(plan(1), threads=3, steps=1, name="test"), threading.Barrier(2, timeout=20)
    assert list(steps_of(ahead, lambda step, rows: [meeting.wait(), {}][1])) == [0]  # type: ignore[list-item]
    ahead.close()


def test_an_error_comes_when_it_is_its_steps_turn_and_the_threads_live_on(ahead: StepsAhead) -> None:
    def crop(step: Step, rows: Any) -> dict[int, ImageError]:
        return {3: ImageError("3.jpg: broken")} if step.number == 2 else {}

    steps = steps_of(ahead, crop)
    assert [next(steps), next(steps)] == [0, 1]
    with pytest.raises(ImageError, match=r"3\.jpg"):
        next(steps)
    assert list(steps_of(ahead)) == [0, 1, 2, 3, 4, 5]


def test_an_error_met_while_waiting_for_a_later_step_is_raised_again_in_its_turn(ahead: StepsAhead) -> None:
    def deliver(step: Step, later: Sequence[Step]) -> int:
        with pytest.raises(ZeroDivisionError):
            ahead.wait(later[0])
        return step.number

    steps = steps_of(ahead, lambda step, rows: {} if step.number == 0 else 1 / 0, deliver)  # type: ignore[arg-type]
    assert next(steps) == 0
    with pytest.raises(ZeroDivisionError):
        next(steps)


def test_a_broken_image_is_replaced_and_counted_where_the_plan_says_so() -> None:
    replacing = CropPlan(SyntheticSource(8), Augmentation(), 8, 4, on_broken="replace")
    ahead = StepsAhead(replacing, threads=2, steps=2, name="test")

    def crop(step: Step, rows: Any) -> dict[int, ImageError]:
        return {row: ImageError("5.jpg: broken") for row in rows.tolist() if step.index[row] == 5}

    found = list(steps_of(ahead, crop, lambda step, later: (step.replaced, step.index.tolist())))
    assert sum(replaced for replaced, _ in found) == 1
    assert sorted(index for _, indices in found for index in indices) == [0, 1, 2, 3, 4, 6, 6, 7]
    ahead.close()


def test_leaving_an_epoch_cancels_what_has_not_started(ahead: StepsAhead) -> None:
    made: list[int] = []
    started, go = threading.Event(), threading.Event()

    def crop(step: Step, rows: Any) -> dict[int, ImageError]:
        made.append(step.number)
        if step.number == 1:
            started.set()
            go.wait(20)
        return {}

    next(steps := steps_of(ahead, crop))
    started.wait(20)
    steps.close()  # type: ignore[attr-defined]
    go.set()
    assert list(steps_of(ahead, noted_numbers(made), epoch=1)) == [0, 1, 2, 3, 4, 5]
    assert made == [0, 1, 0, 1, 2, 3, 4, 5]


def test_epochs_side_by_side_get_their_own_steps(ahead: StepsAhead) -> None:
    epochs = [steps_of(ahead, deliver=lambda step, _: (step.epoch, step.number), epoch=epoch) for epoch in range(3)]
    assert list(zip(*epochs, strict=True)) == [((0, step), (1, step), (2, step)) for step in range(6)]


def test_closing_drops_what_has_not_started_and_ends_the_threads(ahead: StepsAhead) -> None:
    made, started = [], threading.Event()

    def crop(step: Step, rows: Any) -> dict[int, ImageError]:
        made.append(step.number)
        if step.number == 1:
            started.set()
            wait_until(lambda: ahead.is_closed)
        return {}

    steps = steps_of(ahead, crop)
    assert next(steps) == 0
    started.wait(20)
    ahead.close()
    ahead.close()
    assert made == [0, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test")]
    for closed in (steps, steps_of(ahead)):
        with pytest.raises(UsageError, match="closed"):
            next(closed)


def test_a_consumer_that_waits_while_the_loader_is_closed_is_told(ahead: StepsAhead) -> None:
    started, told = threading.Event(), threading.Event()

    def crop(step: Step, rows: Any) -> dict[int, ImageError]:
        started.set()
        told.wait(20)
        return {}

    def consume() -> None:
        with pytest.raises(UsageError, match="closed"):
            next(steps_of(ahead, crop))
        told.set()

    consumer = threading.Thread(target=consume)
    consumer.start()
    started.wait(20)
    ahead.close()
    consumer.join(20)
    assert told.is_set()


def test_an_exception_that_ends_threads_does_not_end_the_consumer(ahead: StepsAhead) -> None:
    def crop(step: Step, rows: Any) -> dict[int, ImageError]:
        raise SystemExit

    with pytest.raises(RunError, match="SystemExit"):
        next(steps_of(ahead, crop))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_between_two_calls_is_noticed(ahead: StepsAhead) -> None:
    list(steps_of(ahead))
    (thread,) = (thread for thread in threading.enumerate() if thread.name.startswith("test"))
    kill(thread.ident or 0)
    with pytest.raises(RunError, match=f"{thread.name} died"):
        list(steps_of(ahead))


NEVER_CLOSED = f"""
import threading
from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.steps_ahead import Step, StepsAhead
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.synthetic_source import SyntheticSource

def crop(step, rows):
    if step.number:
        print(f"step {{step.number}}", flush=True)
        started.set()
        threading.Event().wait()
    return {{}}

started = threading.Event()
ahead = StepsAhead(CropPlan(SyntheticSource({6 * BATCH}), Augmentation(), 8, {BATCH}), threads=1, steps=3, name="test")
steps = ahead.epoch(0, 0, make=Step, crop=crop, deliver=lambda step, later: step.number)
next(steps)
started.wait()
raise ValueError("a mistake")
"""


def test_a_loader_that_is_never_closed_does_not_keep_the_program_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", NEVER_CLOSED], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "step 1\n")
    assert done.stderr.splitlines()[-1] == "ValueError: a mistake"
