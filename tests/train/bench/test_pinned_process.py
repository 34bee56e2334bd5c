import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from simsiam.pipeline.errors import RunError, UsageError
from simsiam.train.bench.pinned_process import PinnedProcess, first_cores, wait_until_idle

_GENERATORS = """
import multiprocessing, os, signal, threading, time
from simsiam.pipeline.errors import UsageError

def cores_of_all(closed):
    found = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getaffinity(0)))
    thread.start(); thread.join()
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, repr(os.sched_getaffinity(0)).encode()); os._exit(0)
    os.wait()
    try:
        yield os.sched_getaffinity(0), found[0], os.read(reader, 1000).decode()
        yield "second"
    finally:
        open(closed, "w").close()

def refuse(): raise UsageError("give another one."); yield
def end(): os._exit(3); yield

def mask(): yield signal.pthread_sigmask(signal.SIG_BLOCK, ())

def start_method(): yield multiprocessing.get_start_method()

def interrupt_the_parent():
    os.kill(os.getppid(), signal.SIGINT)
    signal.pause(); yield

def restless(seconds, finished):
    def work():
        while time.process_time() < seconds: pass
        open(finished, "w").close()
    threading.Thread(target=work, daemon=True).start()
    yield "made"
"""


@pytest.fixture
def generators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Gives a generator function by name, from a module that a new process can import as well."""
    (tmp_path / "pinned_generators.py").write_text(_GENERATORS)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("pinned_generators")
    yield lambda name: getattr(module, name)
    del sys.modules["pinned_generators"]


def test_process_its_threads_and_its_children_see_the_cores_only(generators: Callable, tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    cores = first_cores(1)
    with closing(PinnedProcess("row", cores, generators("cores_of_all"), tmp_path / "closed")) as process:
        assert os.sched_getaffinity(0) == before
        assert next(process) == (set(cores), set(cores), repr(set(cores)))
        assert next(process) == "second"
        assert process.peak_memory_bytes > 2**20
        assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").exists()


def test_processes_that_it_starts_itself_start_as_they_do_elsewhere(generators: Callable) -> None:
    with closing(PinnedProcess("row", first_cores(1), generators("start_method"))) as process:
        assert next(process) == multiprocessing.get_start_method()


def test_what_the_user_can_mend_is_raised_here(generators: Callable) -> None:
    process = PinnedProcess("row", first_cores(1), generators("refuse"))
    with closing(process), pytest.raises(UsageError, match=r"^give another one\.$"):
        next(process)


def test_interrupt_is_left_to_the_process_that_asks(generators: Callable) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with closing(PinnedProcess("row", first_cores(1), generators("mask"))) as process:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        assert next(process) == before | {signal.SIGINT}


def test_closing_does_not_wait_for_an_item_that_is_being_made(generators: Callable) -> None:
    process = PinnedProcess("row", first_cores(1), generators("interrupt_the_parent"), end_within_seconds=60)
    with pytest.raises(KeyboardInterrupt):
        next(process)
    started = time.monotonic()
    process.close()
    assert time.monotonic() - started < 30
    assert multiprocessing.active_children() == []


def test_death_is_told_with_name_and_exit_code(generators: Callable) -> None:
    process = PinnedProcess("my row", first_cores(1), generators("end"))
    with closing(process), pytest.raises(RunError, match="measures my row ended with exit code 3"):
        next(process)


def test_next_waits_until_the_process_is_idle(generators: Callable, tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    with closing(PinnedProcess("row", first_cores(1), generators("restless"), 2.0, finished)) as process:
        assert next(process) == "made"
        assert finished.exists()


def test_a_process_that_never_rests_is_refused(generators: Callable, tmp_path: Path) -> None:
    arguments = generators("restless"), 99, tmp_path / "finished"
    with (
        closing(PinnedProcess("my row", first_cores(1), *arguments, idle_within_seconds=0)) as process,
        pytest.raises(RunError, match="my row keeps the cores busy"),
    ):
        next(process)


@pytest.mark.parametrize(
    ("cpu_seconds", "idle", "readings"),
    [
        ([1.0, 1.0], True, 2),
        ([1.0, 1.2, 1.4, 1.41], True, 4),
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], False, 7),
    ],
    ids=["at once", "later", "never"],
)
def test_idle_is_less_than_a_tenth_of_a_core(cpu_seconds: list[float], idle: bool, readings: int) -> None:
    now, read = [100.0], iter(cpu_seconds)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert wait_until_idle(lambda: next(read), 1.1, clock=lambda: now[0], sleep=sleep) == idle
    assert len(list(read)) == len(cpu_seconds) - readings
