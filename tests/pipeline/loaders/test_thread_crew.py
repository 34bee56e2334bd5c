import ctypes
import threading
import time

import pytest

from simsiam.pipeline.errors import RunError
from simsiam.pipeline.loaders.thread_crew import ThreadCrew


def test_calls_are_made_in_the_order_given() -> None:
    crew, made = ThreadCrew(1, "test"), []
    crew.wait([crew.submit(lambda number=number: made.append(number)) for number in range(20)])
    assert made == list(range(20))
    crew.close()


def test_several_threads_work_at_once() -> None:
    crew, meeting = ThreadCrew(3, "test"), threading.Barrier(3, timeout=5)
    crew.wait([crew.submit(lambda: [meeting.wait(), None][1]) for _ in range(3)])
    crew.close()


def test_what_a_call_raises_reaches_who_waits_and_the_thread_goes_on() -> None:
    crew = ThreadCrew(1, "test")

    def fail() -> None:
        raise ValueError("no such image")

    failed = crew.submit(fail)
    with pytest.raises(ValueError, match="no such image"):
        crew.wait([failed])
    crew.wait([crew.submit(lambda: None)])
    crew.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_between_two_calls_is_noticed() -> None:
    crew = ThreadCrew(1, "test")
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "test-0")
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
    with pytest.raises(RunError, match="test-0 died"):
        crew.wait([crew.submit(lambda: None), crew.submit(lambda: None)])
    crew.close()


def test_closing_drops_what_has_not_begun_and_ends_the_threads() -> None:
    crew, made, go = ThreadCrew(1, "test"), [], threading.Event()
    crew.submit(lambda: [go.wait(5), None][1])
    later = crew.submit(lambda: made.append(1))
    time.sleep(0.05)
    threading.Timer(0.1, go.set).start()
    crew.close()
    crew.wait([later])
    assert made == []
    assert not [thread for thread in threading.enumerate() if thread.name == "test-0"]


def test_a_cancelled_call_is_not_made() -> None:
    crew, made, go = ThreadCrew(1, "test"), [], threading.Event()
    crew.submit(lambda: [go.wait(5), None][1])
    later = crew.submit(lambda: made.append(1))
    later.cancel()
    go.set()
    crew.wait([later])
    assert made == []
    crew.close()
