import time

import pytest
import torch

from simsiam.train.stage_clock import StageClock


def test_tells_the_stages_of_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 2.0, 2.5, 10.0, 10.25, 11.0])
    clock = StageClock(torch.device("cpu"))
    assert clock.milliseconds() == {}
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: next(seconds))
        for _ in range(2):
            clock.start()
            clock.mark("first")
            clock.mark("second")
    assert list(clock.milliseconds().items()) == [("first", 250.0), ("second", 750.0)]


def test_a_gpus_time_is_that_between_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    events = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            self.place, self.waited_for = 0, False
            events.append(self)

        def record(self) -> None:
            self.place = events.index(self) ** 2

        def elapsed_time(self, end: "Event") -> float:
            assert events[-1].waited_for
            return float(end.place - self.place)

        def synchronize(self) -> None:
            self.waited_for = True

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = StageClock(torch.device("cuda"))
    assert clock.milliseconds() == {}
    clock.start()
    clock.mark("first")
    clock.mark("second")
    assert not any(event.waited_for for event in events)
    assert clock.milliseconds() == {"first": 1.0, "second": 3.0}
