from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from simsiam.pipeline.errors import RunError
from simsiam.train import rendezvous
from simsiam.train.rendezvous import Meeting, meet

PATIENCE = timedelta(seconds=20)


@pytest.fixture
def server() -> TCPStore:
    """What torchrun keeps over its restarts."""
    return TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=PATIENCE)


@pytest.fixture
def processes() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def client(server: TCPStore) -> TCPStore:
    return TCPStore("localhost", server.port, is_master=False, timeout=PATIENCE)


def start(server: TCPStore, processes: ThreadPoolExecutor, size: int) -> list[Meeting]:
    arriving = [processes.submit(meet, client(server), rank, size, PATIENCE) for rank in reversed(range(size))]
    return [one.result(PATIENCE.total_seconds()) for one in reversed(arriving)]


def test_processes_of_a_start_share_a_store_and_a_name(server: TCPStore, processes: ThreadPoolExecutor) -> None:
    first, second, third = start(server, processes, 3)
    assert first.job == second.job == third.job
    first.store.set("address", "of the first")
    assert second.store.get("address") == third.store.get("address") == b"of the first"


def test_a_later_start_of_the_job_finds_nothing_of_an_earlier_one(
    server: TCPStore, processes: ThreadPoolExecutor
) -> None:
    earlier = start(server, processes, 2)
    earlier[0].store.set("address", "of a dead one")
    later = start(server, processes, 3)
    assert not later[2].store.check(["address"])
    assert {one.job for one in [*earlier, *later]} == {earlier[0].job}


def test_words_of_the_dead_mislead_nobody(
    server: TCPStore, processes: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process of an earlier start has asked and died, and that of this one comes last."""
    monkeypatch.setattr(rendezvous, "_ASK_AGAIN", timedelta(seconds=0.1))
    with pytest.raises(RunError, match="The first process did not come"):
        meet(client(server), 1, 2, timedelta(seconds=0.1))
    first = processes.submit(meet, client(server), 0, 2, PATIENCE)
    server.wait([f"simsiam//to {server.get('simsiam//1 asks').decode()}"], PATIENCE)
    second = processes.submit(meet, client(server), 1, 2, PATIENCE)
    first.result(20).store.set("place", "the same")
    assert second.result(20).store.get("place") == b"the same"


def test_missing_process_is_named(server: TCPStore) -> None:
    with pytest.raises(RunError, match=r"Of 3 processes these did not come: 1, 2\."):
        meet(client(server), 0, 3, timedelta(seconds=0.1))


def test_a_process_alone_has_a_job(server: TCPStore) -> None:
    job = meet(client(server), 0, 1, PATIENCE).job
    assert job and meet(client(server), 0, 1, PATIENCE).job == job
