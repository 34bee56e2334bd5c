"""A function and a count → its results in order, computed in worker processes that never outlive their parent."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

Result = TypeVar("Result")

_TASKS_PER_WORKER = 4
"""Tasks a worker holds, so that it needn't wait for the parent between two."""
_WINDOW_PER_WORKER = 16
"""Tasks a worker's share of the window may run ahead of the next result wanted: bounds the memory."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Worker(NamedTuple):
    process: BaseProcess
    connection: Connection
    tasks: deque[int]


def ordered_map(
    function: Callable[[int], Result], count: int, workers: int, name: Callable[[int], str]
) -> Generator[Result, None, None]:
    """Yield function(0), …, function(count - 1), computed in `workers` forked processes.

    The order, and so whatever is made of the results, is the same for any number of workers. Close the generator
    (`contextlib.closing`) to end the workers early. They use pipes alone, no shared memory or semaphore, and on Linux
    the kernel kills them when the parent dies, however it dies.

    Raises RuntimeError when a worker dies or `function` raises; the message has `name` of the tasks in question.
    """
    context = multiprocessing.get_context("fork")
    running: list[_Worker] = []
    try:
        for _ in range(min(workers, count)):
            ours, theirs = context.Pipe()
            inherited = [ours, *(worker.connection for worker in running)]
            process = context.Process(target=_work, args=(function, theirs, inherited, os.getpid()), daemon=True)
            process.start()
            running.append(_Worker(process, ours, deque()))
            # Only the worker may hold its end, or its death would not be seen as the end of the pipe.
            theirs.close()
        yield from _collect(running, count, name)
    finally:
        for worker in running:
            worker.process.kill()
        for worker in running:
            worker.process.join()
            worker.connection.close()


def _collect(running: list[_Worker], count: int, name: Callable[[int], str]) -> Generator[Any, None, None]:
    by_connection = {worker.connection: worker for worker in running}
    ready: dict[int, Any] = {}
    given = 0
    for wanted in range(count):
        while wanted not in ready:
            ahead = min(count, wanted + _WINDOW_PER_WORKER * len(running))
            for worker in running:
                while given < ahead and len(worker.tasks) < _TASKS_PER_WORKER:
                    worker.tasks.append(given)
                    # A dead worker is noticed below, once the results it still sent have been read.
                    with contextlib.suppress(OSError):
                        worker.connection.send(given)
                    given += 1
            for connection in wait(list(by_connection)):
                worker = by_connection[connection]  # pyright: ignore[reportArgumentType]
                result = _receive(worker, name)
                ready[worker.tasks.popleft()] = result
        yield ready.pop(wanted)


def _receive(worker: _Worker, name: Callable[[int], str]) -> Any:
    try:
        done, result = worker.connection.recv()
    except (EOFError, OSError):
        raise _death(worker, name) from None
    if not done:
        raise RuntimeError(f"Working on {name(worker.tasks[0])} failed:\n{result}")
    return result


def _death(worker: _Worker, name: Callable[[int], str]) -> RuntimeError:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    how = f"of signal {signal.Signals(-code).name}" if code and code < 0 else f"with exit code {code}"
    images = ", ".join(name(task) for task in worker.tasks) or "nothing"
    return RuntimeError(
        f"A worker process (pid {worker.process.pid}) died {how}; it had in hand, the first being worked on: {images}."
        " If it was killed for memory, use fewer workers."
    )


def _work(function: Callable[[int], Any], tasks: Connection, inherited: list[Connection], parent: int) -> None:
    # A Ctrl-C reaches the whole group of processes; the parent decides what becomes of its workers.
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
            task = tasks.recv()
        except EOFError:
            return
        try:
            answer = (True, function(task))
        except Exception:
            answer = (False, traceback.format_exc())
        tasks.send(answer)
