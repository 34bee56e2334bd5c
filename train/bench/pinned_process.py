"""Generator that runs in a process of its own, pinned to given cores: each item is made when it is asked for."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from simsiam.pipeline.errors import RunError, UsageError
from simsiam.train.bench.process_usage import cpu_seconds, memory_bytes

_MEMORY_SAMPLE_SECONDS = 0.5
"""Between two readings of the memory; a reading takes a few milliseconds of a core."""
_IDLE_SAMPLE_SECONDS = 0.2
"""Between two readings of the CPU time."""
_IDLE_SHARE = 0.1
"""A process that uses less of a core is idle: it may check now and then whether there is something to do."""


class PinnedProcess:
    """Items of the generator `function(*arguments)`, made in a fresh process that sees only `cores`.

    Its children and all threads that its packages start inherit the cores, and packages that count the cores find as
    many. Between two items the process is idle. `name` is what it is called in messages. The process has
    `idle_within_seconds` to become idle after an item, and `end_within_seconds` to end by itself.
    """

    peak_memory_bytes: int = 0
    """The most memory seen while an item was made, children included; see `process_usage.memory_bytes`."""

    def __init__(
        self,
        name: str,
        cores: Sequence[int],
        function: Callable[..., Generator[Any]],
        *arguments: object,
        idle_within_seconds: float = 60,
        end_within_seconds: float = 10,
    ) -> None:
        self._name, self._at_work = name, False
        self._idle_within_seconds, self._end_within_seconds = idle_within_seconds, end_within_seconds
        context = multiprocessing.get_context("spawn")  # a fork would share this process's imports, and its locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function, arguments), name=f"bench {name}")
        with pinned(cores), _interrupt_blocked():
            self._process.start()
        theirs.close()  # so that the end of the process closes the pipe

    def __next__(self) -> Any:
        """Have the next item made, wait until the process is idle, and return the item.

        Raises UsageError, RunError and OSError of the function; RunError if the process dies or doesn't become idle.
        """
        assert self._process.pid is not None
        self._at_work = True
        try:
            self._connection.send(None)
            while not self._connection.poll(_MEMORY_SAMPLE_SECONDS):
                self._note_memory(self._process.pid)
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(self._end_within_seconds)
            raise RunError(
                f"The process that measures {self._name} ended with exit code {self._process.exitcode}; its own"
                " messages stand above."
            ) from None
        self._at_work = False
        if isinstance(answer, Exception):
            raise answer
        # What it prepares for the next item must not take the cores from another process that is measured.
        if not wait_until_idle(partial(cpu_seconds, self._process.pid), self._idle_within_seconds):
            raise RunError(
                f"{self._name} keeps the cores busy between its turns, so that no other row can be measured next to"
                " it; measure it alone."
            )
        self._note_memory(self._process.pid)
        return answer

    def _note_memory(self, pid: int) -> None:
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory_bytes(pid))

    def close(self) -> None:
        """End the process: by closing the generator, or at once while an item is being made."""
        self._connection.close()
        if self._at_work:
            self._process.terminate()
        for end in (self._process.terminate, self._process.kill):
            self._process.join(self._end_within_seconds)
            if self._process.exitcode is None:
                end()
        self._process.join()


def wait_until_idle(
    cpu_seconds: Callable[[], float],
    within_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait until `cpu_seconds()` grows by less than a tenth of a core; return whether it did so within the time."""
    deadline = clock() + within_seconds
    before = cpu_seconds()
    while True:
        sleep(_IDLE_SAMPLE_SECONDS)
        used = cpu_seconds()
        if used - before <= _IDLE_SHARE * _IDLE_SAMPLE_SECONDS:
            return True
        if clock() > deadline:
            return False
        before = used


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Pin this thread, and all threads and processes that it starts, to `cores`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _interrupt_blocked() -> Iterator[None]:
    # Ctrl-C reaches every process of the terminal. This one handles it and ends those that it started; they have the
    # signal blocked from birth, while Python is still importing.
    resource_tracker.ensure_running()  # else it would be started now, and unblock the signal afterwards
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def first_cores(count: int) -> tuple[int, ...]:
    """Return the numbers of the first `count` cores that this program may use, or of all if there are fewer."""
    return tuple(sorted(os.sched_getaffinity(0))[:count])


def _serve(connection: Connection, function: Callable[..., Generator[Any]], arguments: Sequence[object]) -> None:
    # A spawned process would spawn its own children as well, and each imports everything anew: FFCV's writer, timed
    # with the start of its workers, took five times as long.
    multiprocessing.set_start_method(None, force=True)
    with contextlib.closing(function(*arguments)) as items, contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.recv()
            try:
                answer = next(items)
            except (UsageError, RunError, OSError) as error:
                answer = error
            connection.send(answer)
