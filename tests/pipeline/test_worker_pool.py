import contextlib
import multiprocessing
import os
import pickle
import signal
import time

import pytest

from simsiam.pipeline.worker_pool import ordered_map


def name(task: int) -> str:
    return f"task {task}"


def uneven_square(task: int) -> int:
    time.sleep(0.02 * (task % 3 == 0))
    return task * task


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_come_in_order_for_any_number_of_workers(workers):
    assert list(ordered_map(uneven_square, 50, workers, name)) == [i * i for i in range(50)]


def test_fewer_tasks_than_workers_and_none_at_all():
    assert list(ordered_map(uneven_square, 1, 3, name)) == [0]
    assert list(ordered_map(uneven_square, 0, 3, name)) == []


def test_the_work_is_done_in_other_processes():
    assert os.getpid() not in set(ordered_map(lambda _: os.getpid(), 4, 2, name))


def test_a_waiting_consumer_bounds_the_work_done_ahead(tmp_path):
    with contextlib.closing(ordered_map(lambda task: (tmp_path / str(task)).touch(), 1000, 2, name)) as results:
        next(results)
        time.sleep(0.3)
        assert 1 <= len(list(tmp_path.iterdir())) <= 32


def test_a_slow_task_bounds_the_work_done_ahead_of_it(tmp_path):
    def work(task: int) -> None:
        time.sleep(0.5 * (task == 0))
        (tmp_path / str(task)).touch()

    with contextlib.closing(ordered_map(work, 1000, 2, name)) as results:
        next(results)
        assert 8 <= len(list(tmp_path.iterdir())) <= 32


def test_a_ctrl_c_does_not_reach_the_workers_and_a_sigterm_ends_them():
    with contextlib.closing(ordered_map(lambda task: (time.sleep(0.02), os.getpid())[1], 100, 1, name)) as results:
        pid = next(results)
        os.kill(pid, signal.SIGINT)
        assert next(results) == pid
        os.kill(pid, signal.SIGTERM)
        with pytest.raises(RuntimeError, match="died of signal SIGTERM"):
            list(results)


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_results_come_in_order_for_any_batch(batch):
    assert list(ordered_map(uneven_square, 50, 2, name, batch=batch)) == [i * i for i in range(50)]


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


def test_a_buffer_stays_until_as_many_results_as_a_batch_were_asked_for():
    results = ordered_map(lambda task: pickle.PickleBuffer(bytes([task]) * 1000), 90, 2, name, batch=3)
    for first in range(0, 90, 3):
        held = [next(results) for _ in range(3)]
        assert [bytes(buffer) for buffer in held] == [bytes([first + i]) * 1000 for i in range(3)]
    results.close()


def test_large_results_do_not_block():
    assert [len(result) for result in ordered_map(lambda _: bytes(3 << 20), 12, 2, name)] == [3 << 20] * 12


def test_closing_early_ends_the_workers():
    results = ordered_map(uneven_square, 1000, 2, name)
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


def test_results_sent_before_a_death_are_not_blamed():
    def die(task: int) -> int:
        if task == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    with contextlib.closing(ordered_map(die, 60, 1, name)) as results:
        assert next(results) == 0
        time.sleep(0.3)  # the worker has answered tasks 1 and 2 and died by now
        assert [next(results), next(results)] == [1, 2]
        with pytest.raises(RuntimeError, match=r"working on: task 3\."):
            next(results)


def test_a_worker_that_exits_is_an_error():
    with pytest.raises(RuntimeError, match="died with exit code 3"):
        list(ordered_map(lambda _: os._exit(3), 5, 2, name))


def test_a_worker_killed_while_another_works_is_noticed():
    with contextlib.closing(ordered_map(lambda task: (time.sleep(0.2), os.getpid())[1], 100, 2, name)) as results:
        pid = next(results)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match=f"pid {pid}"):
            list(results)
