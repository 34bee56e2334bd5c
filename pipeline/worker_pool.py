"""Ordered map in worker processes: function(0), function(1), …, in order, a bounded number of them ahead.

What it has over `ProcessPoolExecutor`: a worker that dies is an error naming the task it was working on, workers never
outlive their parent, however it dies, and large results are copied once.
"""

import contextlib
import ctypes
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from simsiam.pipeline.errors import DeadWorkerError

Result = TypeVar("Result")

_BATCHES_PER_WORKER = 4
"""Batches sent to a worker at a time, so that it needn't wait for the parent between two."""
_SLOTS = 8
"""Batches of one worker that may be in work or waiting for their turn: bounds the memory."""
_SLOT_BYTES = 2 << 20
"""Largest buffers of one batch, in bytes, that go through shared memory; larger ones take the pipe, which is slower."""
_TASK_BYTES = 8
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class TaskError(RuntimeError):
    """A function raised in a worker process: a defect; the message contains the traceback."""


class _Batch(NamedTuple):
    tasks: range
    slot: int


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    shared: mmap.mmap
    """The task in work, in `_TASK_BYTES`, then the slots."""
    batches: deque[_Batch] = field(default_factory=deque)
    # The slot used last is taken first: its memory is allocated already, and may be in a cache.
    free_slots: list[int] = field(default_factory=lambda: list(range(_SLOTS)))


def ordered_map(
    function: Callable[[int], Result], count: int, workers: int, name: Callable[[int], str], *, batch: int = 1
) -> Generator[Result, None, None]:
    """Yield function(0), …, function(count - 1), computed in `workers` forked processes, `batch` tasks per message.

    Results come in order, for any number of workers. Close the generator (`contextlib.closing`) to end the workers
    early. They use pipes and unnamed shared memory, which both vanish with them, and on Linux the kernel kills them
    when the parent dies.

    Large bytes are copied once instead of five times if a result contains them as `pickle.PickleBuffer`: they arrive
    as a memoryview that is valid until `batch` more results have been requested.

    Raises DeadWorkerError when a worker dies and TaskError when `function` raises; the message contains the `name` of
    the task in work.
    """
    context = multiprocessing.get_context("fork")
    running: list[_Worker] = []
    batches = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
    try:
        for _ in range(min(workers, len(batches))):
            ours, theirs = context.Pipe()
            inherited = [ours, *(worker.connection for worker in running)]
            shared = mmap.mmap(-1, _TASK_BYTES + _SLOTS * _SLOT_BYTES)
            arguments = function, theirs, inherited, shared, os.getpid()
            process = context.Process(target=_work, args=arguments, daemon=True)
            process.start()
            running.append(_Worker(process, ours, shared))
            # Only the worker may hold its end: otherwise its death would not close the pipe.
            theirs.close()
        yield from _collect(running, batches, name)
    finally:
        for worker in running:
            worker.process.kill()
        for worker in running:
            worker.process.join()
            worker.connection.close()


def _collect(running: list[_Worker], batches: list[range], name: Callable[[int], str]) -> Generator[Any, None, None]:
    by_connection = {worker.connection: worker for worker in running}
    ready: dict[range, tuple[_Worker, int, list[Any]]] = {}
    waiting = deque(batches)
    for wanted in batches:
        while wanted not in ready:
            for worker in running:
                while waiting and worker.free_slots and len(worker.batches) < _BATCHES_PER_WORKER:
                    sent = _Batch(waiting.popleft(), worker.free_slots.pop())
                    worker.batches.append(sent)
                    # A dead worker is noticed below, after the results it sent before have been read.
                    with contextlib.suppress(OSError):
                        worker.connection.send(sent)
            for connection in wait(list(by_connection)):
                worker = by_connection[connection]  # pyright: ignore[reportArgumentType]
                results = _receive(worker, name)
                tasks, slot = worker.batches.popleft()
                ready[tasks] = worker, slot, results
        worker, slot, results = ready.pop(wanted)
        yield from results
        worker.free_slots.append(slot)


def _receive(worker: _Worker, name: Callable[[int], str]) -> list[Any]:
    try:
        message, lengths = pickle.loads(worker.connection.recv_bytes())
    except (EOFError, OSError):
        raise _death(worker, name) from None
    start = _slot_start(worker.batches[0].slot)
    buffers = []
    for length in lengths:
        buffers.append(memoryview(worker.shared)[start : start + length])
        start += length
    results, failure = pickle.loads(message, buffers=buffers)
    if failure is not None:
        task, details = failure
        raise TaskError(f"Working on {name(task)} failed:\n{details}")
    return results


def _death(worker: _Worker, name: Callable[[int], str]) -> DeadWorkerError:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    how = f"of signal {signal.Signals(-code).name}" if code and code < 0 else f"with exit code {code}"
    task = _task_in_work(worker.shared)
    image = name(task) if any(task in batch.tasks for batch in worker.batches) else "nothing"
    return DeadWorkerError(
        f"A worker process (pid {worker.process.pid}) died {how}, working on: {image}."
        " If it was killed for memory, use fewer workers."
    )


def _task_in_work(shared: mmap.mmap) -> int:
    return int.from_bytes(shared[:_TASK_BYTES], "little")


def _slot_start(slot: int) -> int:
    return _TASK_BYTES + slot * _SLOT_BYTES


def _work(
    function: Callable[[int], Any],
    batches: Connection,
    inherited: list[Connection],
    shared: mmap.mmap,
    parent: int,
) -> None:
    # Ctrl-C reaches the whole process group; the parent decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have died before the line above took effect.
    if os.getppid() != parent:
        return
    for connection in inherited:
        connection.close()
    while True:
        try:
            tasks, slot = batches.recv()
        except (EOFError, OSError):
            return
        results, failure = [], None
        for task in tasks:
            shared[:_TASK_BYTES] = task.to_bytes(_TASK_BYTES, "little")
            try:
                results.append(function(task))
            except Exception:
                results, failure = [], (task, traceback.format_exc())
                break
        try:
            batches.send_bytes(pickle.dumps(_pack((results, failure), shared, slot)))
        except OSError:  # the parent has gone
            return


def _pack(answer: tuple[list[Any], tuple[int, str] | None], shared: mmap.mmap, slot: int) -> tuple[bytes, list[int]]:
    """Pickle an answer and copy its buffers to the slot; return the pickle and the lengths of these buffers."""
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(answer, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    lengths = [len(view) for view in views]
    if sum(lengths) > _SLOT_BYTES:
        return pickle.dumps(answer, protocol=5), []
    start = _slot_start(slot)
    for view in views:
        shared[start : start + len(view)] = view
        start += len(view)
    return message, lengths
