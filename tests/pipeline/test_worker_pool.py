import contextlib
import multiprocessing
import os
import pickle
import signal
from multiprocessing.connection import Connection
from typing import Any

import pytest

from simsiam.pipeline import worker_pool
from simsiam.pipeline.worker_pool import ordered_map
from tests.pipeline.wait_until import wait_until


def name(task: int) -> str:
    return f"task {task}"


def square(task: int) -> int:
    return task * task


def event() -> Any:
    return multiprocessing.get_context("fork").Event()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_come_in_order_for_any_number_of_workers(workers):
    assert list(ordered_map(square, 50, workers, name)) == [i * i for i in range(50)]


def test_results_come_in_order_when_a_later_task_finishes_first():
    last_done = event()

    def work(task: int) -> int:
        if task == 0:
            assert last_done.wait(30)
        if task == 9:  # in the other worker
            last_done.set()
        return task

    assert list(ordered_map(work, 10, 2, name)) == list(range(10))


def test_fewer_tasks_than_workers_and_none_at_all():
    assert list(ordered_map(square, 1, 3, name)) == [0]
    assert list(ordered_map(square, 0, 3, name)) == []


def test_tasks_run_in_other_processes():
    assert os.getpid() not in set(ordered_map(lambda _: os.getpid(), 4, 2, name))


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tasks sent to workers."""
    tasks: list[int] = []
    send = Connection.send
    monkeypatch.setattr(Connection, "send", lambda self, batch: tasks.extend(batch.tasks) or send(self, batch))
    return tasks


def test_a_waiting_consumer_bounds_the_work_done_ahead(sent):
    with contextlib.closing(ordered_map(square, 1000, 2, name)) as results:
        next(results)
        assert 1 <= len(sent) <= 16


def test_a_slow_task_bounds_the_work_done_ahead_of_it(sent, monkeypatch):
    go, received, wait = event(), [], worker_pool.wait

    def work(task: int) -> int:
        if task == 0:
            assert go.wait(30)
        return task

    def counting_wait(connections):
        if len(sent) - len(received) == 4:  # those of the slow task's worker: the other one gets no more
            go.set()
        ready = wait(connections)
        received.extend(ready)
        return ready

    monkeypatch.setattr(worker_pool, "wait", counting_wait)
    with contextlib.closing(ordered_map(work, 1000, 2, name)) as results:
        next(results)
        assert 8 <= len(sent) <= 16


def test_a_ctrl_c_does_not_reach_the_workers_and_a_sigterm_ends_them():
    never = event()

    def work(task: int) -> int:
        if task == 2:
            never.wait()
        return os.getpid()

    with contextlib.closing(ordered_map(work, 100, 1, name)) as results:
        pid = next(results)
        os.kill(pid, signal.SIGINT)
        assert next(results) == pid
        os.kill(pid, signal.SIGTERM)
        with pytest.raises(RuntimeError, match="died of signal SIGTERM"):
            list(results)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_results_come_in_order_for_any_batch(batch):
    assert list(ordered_map(square, 50, 2, name, batch=batch)) == [i * i for i in range(50)]


def test_the_task_of_a_batch_that_killed_its_worker_is_named():
    def die(task: int) -> int:
        if task == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    with pytest.raises(RuntimeError, match=r"died of signal SIGKILL, working on: task 13\."):
        list(ordered_map(die, 60, 2, name, batch=8))


def test_the_task_of_a_batch_that_raised_is_named():
    with pytest.raises(RuntimeError, match=r"Working on task 13 failed:\n(.|\n)*ZeroDivisionError"):
        list(ordered_map(lambda task: 1 // (task - 13), 60, 2, name, batch=8))


@pytest.mark.parametrize("size", [0, 10_000, 3 << 20], ids=["nothing", "in a slot", "larger than a slot"])
def test_buffers_arrive_unchanged_whatever_their_size(size):
    def content(task: int) -> bytes:
        return task.to_bytes(4, "little") * (size // 4)

    results = ordered_map(lambda task: (task, pickle.PickleBuffer(content(task))), 60, 3, name, batch=4)
    for expected, (task, buffer) in enumerate(results):
        assert task == expected
        assert bytes(buffer) == content(task)


def test_a_buffer_is_valid_until_a_batch_of_results_was_requested():
    results = ordered_map(lambda task: pickle.PickleBuffer(bytes([task]) * 1000), 90, 2, name, batch=3)
    for first in range(0, 90, 3):
        held = [next(results) for _ in range(3)]
        assert [bytes(buffer) for buffer in held] == [bytes([first + i]) * 1000 for i in range(3)]
    results.close()


def test_large_results_do_not_block():
    assert [len(result) for result in ordered_map(lambda _: bytes(3 << 20), 12, 2, name)] == [3 << 20] * 12


def test_closing_early_ends_the_workers():
    results = ordered_map(square, 1000, 2, name)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()
    assert multiprocessing.active_children() == []


def test_an_exception_names_the_task_and_keeps_the_traceback():
    def fail(task: int) -> int:
        return 1 // (task - 3)

    with pytest.raises(RuntimeError, match=r"task 3 failed:\n(.|\n)*in fail\n(.|\n)*ZeroDivisionError"):
        list(ordered_map(fail, 9, 2, name))
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_an_error_that_names_its_tasks(workers):
    def die(task: int) -> int:
        if task == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    with pytest.raises(RuntimeError, match=r"died of signal SIGKILL, working on: task 7\."):
        list(ordered_map(die, 60, workers, name))
    assert multiprocessing.active_children() == []


def test_results_sent_before_a_death_arrive():
    def die(task: int) -> int:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    with contextlib.closing(ordered_map(die, 60, 1, name)) as results:
        assert next(results) == 0
        wait_until(lambda: not multiprocessing.active_children())
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(RuntimeError, match=r"working on: task 3\."):
            next(results)


def test_a_worker_that_exits_is_an_error():
    with pytest.raises(RuntimeError, match="died with exit code 3"):
        list(ordered_map(lambda _: os._exit(3), 5, 2, name))


def test_a_worker_killed_while_another_works_is_noticed():
    never = event()

    def work(task: int) -> int:
        if task:
            never.wait()
        return os.getpid()

    with contextlib.closing(ordered_map(work, 100, 2, name)) as results:
        pid = next(results)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=f"pid {pid}"):
            list(results)
