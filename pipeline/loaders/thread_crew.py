"""Functions to call → called in threads, in the order given; whoever waits for a result also hears of a dead thread."""

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue

from simsiam.pipeline.errors import RunError

_LOOK_SECONDS = 0.2
"""How often a waiting caller looks whether the threads still live: a dead one is reported this late at worst."""


class Job:
    """One call; `ThreadCrew.wait` says how it ended."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function: Callable[[], None] | None = function
        self._error: BaseException | None = None
        self._done = threading.Event()

    def cancel(self) -> None:
        """Don't begin the call, if it hasn't begun; it counts as done."""
        self._function = None

    def run(self) -> None:
        """Make the call and keep its error for whoever waits."""
        try:
            if (function := self._function) is not None:
                function()
        except BaseException as error:
            self._error = error
        finally:
            self._function = None  # what it holds is needed no more
            self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait until the call is done, at most `seconds`; return whether it is. Raises what the call raised."""
        if not self._done.wait(seconds):
            return False
        if isinstance(self._error, Exception):
            raise self._error
        if self._error is not None:  # meant for the thread: here it would end the program, or the epoch, in silence
            raise RunError(f"The thread that made a call was ended by {type(self._error).__name__}.")
        return True


class ThreadCrew:
    """Threads that make the calls given to them, the earlier ones first, until the crew is closed or forgotten."""

    def __init__(self, count: int, name: str) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # Daemons, so that a program that ends by an error needn't close the crew to be able to end.
        self._threads = [
            threading.Thread(target=_work, args=(self._jobs,), name=f"{name}-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()
        self._dismiss = weakref.finalize(self, _dismiss, self._jobs, count)

    def submit(self, function: Callable[[], None]) -> Job:
        """Have `function` called in one of the threads."""
        job = Job(function)
        self._jobs.put(job)
        return job

    def wait(self, jobs: Sequence[Job]) -> None:
        """Wait until these calls are done.

        Raises what the first failed one raised, and RunError when a thread died. What `close` dropped counts as done.
        """
        for job in jobs:
            while not job.wait(_LOOK_SECONDS):
                dead = [thread.name for thread in self._threads if not thread.is_alive()]
                if dead and not job.wait(0):
                    raise RunError(f"The thread {dead[0]} died; close the loader and open a new one.")

    def close(self) -> None:
        """End the threads, each after the call it is in."""
        self._dismiss()
        for thread in self._threads:
            thread.join()


def _work(jobs: SimpleQueue[Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()


def _dismiss(jobs: SimpleQueue[Job | None], count: int) -> None:
    # What hasn't begun is dropped, and the threads find nothing but the sign to leave.
    with contextlib.suppress(Empty):
        while (job := jobs.get_nowait()) is not None:
            job.cancel()
            job.run()
    for _ in range(count):
        jobs.put(None)
