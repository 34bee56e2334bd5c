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
from simsiam.train.bench import pinned_process
from simsiam.train.bench.pinned_process import PinnedProcess, first_cores

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

def sleep(seconds): time.sleep(seconds); yield

def restless(seconds):
    def work():
        while time.process_time() < seconds: pass
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


def test_processes_that_it_starts_itself_begin_as_they_do_elsewhere(generators: Callable) -> None:
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


def test_closing_does_not_wait_for_an_item_in_the_making(generators: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(pid: int) -> int:
        raise KeyboardInterrupt

    process = PinnedProcess("row", first_cores(1), generators("sleep"), 60)
    monkeypatch.setattr(pinned_process, "memory_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(process)
    began = time.monotonic()
    process.close()
    assert time.monotonic() - began < 5


def test_death_is_told_with_name_and_exit_code(generators: Callable) -> None:
    process = PinnedProcess("my row", first_cores(1), generators("end"))
    with closing(process), pytest.raises(RunError, match="measures my row ended with exit code 3"):
        next(process)


def test_next_waits_until_the_process_rests(generators: Callable) -> None:
    with closing(PinnedProcess("row", first_cores(1), generators("restless"), 2.0)) as process:
        began = time.monotonic()
        assert next(process) == "made"
        assert time.monotonic() - began > 1.5


def test_a_process_that_never_rests_is_refused(generators: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned_process, "_REST_SECONDS", 0.5)
    with closing(PinnedProcess("my row", first_cores(1), generators("restless"), 99)) as process:
        began = time.monotonic()
        with pytest.raises(RunError, match="my row keeps the cores busy"):
            next(process)
        assert time.monotonic() - began < 5
