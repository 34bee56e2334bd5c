"""A generator function → run in a process of its own, on cores of its own, one item at a time when it is asked for."""

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from simsiam.pipeline.errors import RunError, UsageError
from simsiam.train.bench.process_usage import cpu_seconds, memory_bytes

_SAMPLE_SECONDS = 0.5
"""Between two looks at the memory; a look takes a few milliseconds of a core."""
_PATIENCE_SECONDS = 10
"""How long a process may take to end by itself."""
_LOOK_SECONDS = 0.2
"""Between two looks at whether a process rests."""
_REST_SHARE = 0.1
"""A process that uses less of a core rests: it may look now and then whether there is something to do."""
_REST_SECONDS = 60
"""How long it may take to come to rest."""


class PinnedProcess:
    """Items of `function(*arguments)`, made in a fresh process that sees `cores` only; it rests from one to the next.

    Its children and all the threads that its packages start are pinned as well, since they inherit it, and packages
    that count the cores find as many. `name` is what it is called in messages.
    """

    peak_memory_bytes: int = 0
    """The most memory seen while an item was made, children included; see `process_usage.memory_bytes`."""

    def __init__(
        self, name: str, cores: Sequence[int], function: Callable[..., Generator[Any]], *arguments: object
    ) -> None:
        self._name, self._at_work = name, False
        context = multiprocessing.get_context("spawn")  # a fork would share this process's imports, and its locks
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, function, arguments), name=f"bench {name}")
        with pinned(cores), _interrupt_blocked():
            self._process.start()
        theirs.close()  # so that the end of the process closes the pipe

    def __next__(self) -> Any:
        """Have the next item made, and return it.

        Raises what the function raised where it is meant for the user, and RunError when the process died.
        """
        assert self._process.pid is not None
        self._at_work = True
        try:
            self._connection.send(None)
            while not self._connection.poll(_SAMPLE_SECONDS):
                self.peak_memory_bytes = max(self.peak_memory_bytes, memory_bytes(self._process.pid))
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(_PATIENCE_SECONDS)
            raise RunError(
                f"The process that measures {self._name} ended with exit code {self._process.exitcode}; what it had to"
                " say stands above."
            ) from None
        self._at_work = False
        if isinstance(answer, Exception):
            raise answer
        self._wait_for_rest(self._process.pid)
        return answer

    def _wait_for_rest(self, pid: int) -> None:
        # What it makes ahead, for when it is asked again, must not take the cores from another that is measured.
        deadline = time.monotonic() + _REST_SECONDS
        used, before = cpu_seconds(pid), -1.0
        while used - before > _REST_SHARE * _LOOK_SECONDS:
            if time.monotonic() > deadline:
                raise RunError(
                    f"{self._name} keeps the cores busy while nobody asks anything of it, so that nothing can be"
                    " measured beside it; measure it alone."
                )
            time.sleep(_LOOK_SECONDS)
            used, before = cpu_seconds(pid), used
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory_bytes(pid))

    def close(self) -> None:
        """End the process: by closing the generator, or at once when an item is in the making."""
        self._connection.close()
        if self._at_work:
            self._process.terminate()
        for end in (self._process.terminate, self._process.kill):
            self._process.join(_PATIENCE_SECONDS)
            if self._process.exitcode is None:
                end()
        self._process.join()


@contextlib.contextmanager
def pinned(cores: Sequence[int]) -> Iterator[None]:
    """Let this thread, and whatever it starts, run on `cores` only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _interrupt_blocked() -> Iterator[None]:
    # Ctrl-C reaches every process of the terminal. The one that asks hears it, and ends the ones that it started, which
    # have it blocked from birth, while Python is still importing.
    resource_tracker.ensure_running()  # multiprocessing would start it now, and unblock the signal after that
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def first_cores(count: int) -> tuple[int, ...]:
    """Return the numbers of `count` cores that this program may use, or of all where there are fewer."""
    return tuple(sorted(os.sched_getaffinity(0))[:count])


def _serve(connection: Connection, function: Callable[..., Generator[Any]], arguments: Sequence[object]) -> None:
    # A spawned process would spawn its own children, too, which import everything anew: FFCV's writer is timed with its
    # workers' start, and took five times as long.
    multiprocessing.set_start_method(None, force=True)
    with contextlib.closing(function(*arguments)) as items, contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.recv()
            try:
                answer = next(items)
            except (UsageError, RunError, OSError) as error:
                answer = error
            connection.send(answer)
