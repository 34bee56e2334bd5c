import os
import signal
import threading
from collections.abc import Iterator

import pytest

from simsiam.train import stall
from simsiam.train.interruption import StopSignals
from simsiam.train.stall import Stalled, StallWatch, StoppedWhileWaiting

TOLD: list[str] = []


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[StallWatch, StopSignals]]:
    monkeypatch.setattr(stall, "OBEYED_AFTER_SECONDS", 0.02)
    monkeypatch.setattr(stall, "TOLD_AFTER_SECONDS", 0.03)
    monkeypatch.setattr(stall, "STOPPED_AFTER_SECONDS", 0.3)
    TOLD.clear()
    with StopSignals() as signals:
        watch = StallWatch(signals, TOLD.append)
        yield watch, signals
        watch.close()


def test_loader_that_delivers_nothing_is_told_once_and_stopped(watch: tuple[StallWatch, StopSignals]) -> None:
    with pytest.raises(Stalled, match="No images came"), watch[0]:
        threading.Event().wait()
    assert len(TOLD) == 1 and "No images" in TOLD[0]


def test_signal_ends_a_wait_that_no_batch_ends(watch: tuple[StallWatch, StopSignals]) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(StoppedWhileWaiting), watch[0]:
        threading.Event().wait()


def test_between_two_waits_nothing_is_interrupted(watch: tuple[StallWatch, StopSignals]) -> None:
    with watch[0]:
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_handler_before_is_restored() -> None:
    before = signal.getsignal(signal.SIGALRM)
    StallWatch(StopSignals(), TOLD.append).close()
    assert signal.getsignal(signal.SIGALRM) is before
