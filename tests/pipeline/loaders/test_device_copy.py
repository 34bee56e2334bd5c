from contextlib import contextmanager
from typing import Any

import pytest
import torch

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.loaders.device_copy import DeviceCopy

CROPS = Crops(
    torch.arange(24, dtype=torch.uint8).reshape(2, 1, 2, 2, 3),
    Draws(*(torch.full((2,), float(number)) for number in range(len(Draws._fields)))),
    torch.tensor([3, 1]),
    torch.tensor([0, -1]),
)


def test_on_a_cpu_nothing_is_copied_or_read_ahead() -> None:
    copy = DeviceCopy(torch.device("cpu"))
    assert not copy.pins_memory
    assert copy.hand_over(copy.start(CROPS)) is CROPS
    read: list[int] = []
    batches = ((CROPS, number) for number in range(3) if read.append(number) is None)
    assert next(copy.ahead(batches)) == (CROPS, 0) and read == [0]


def test_the_next_copy_starts_before_a_batch_is_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "side")
    copy, calls = DeviceCopy(torch.device("cuda")), []
    monkeypatch.setattr(copy, "start", lambda crops: calls.append(f"start {crops}") or crops)
    monkeypatch.setattr(copy, "hand_over", lambda copied: calls.append(f"hand over {copied}") or copied)
    batches: Any = iter([("a", 1), ("b", 0), ("c", 2)])  # letters stand in for crops
    assert list(copy.ahead(batches)) == [("a", 1), ("b", 0), ("c", 2)]
    assert calls == ["start a", "start b", "hand over a", "start c", "hand over b", "hand over c"]
    assert list(copy.ahead(iter([]))) == []


def test_the_consumers_stream_waits_for_the_copy_and_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, current = [], ["consumer"]

    class Stream:
        def __init__(self, name: object) -> None:
            self.name = name if isinstance(name, str) else "side"

        def record_event(self) -> str:
            calls.append(("record", self.name))
            return "copied"

        def wait_event(self, event: str) -> None:
            calls.append(("wait", self.name, event))

    @contextmanager
    def stream(side: Stream):
        current.append(side.name)
        yield
        current.pop()

    def to(crops: Crops, device: torch.device) -> Crops:
        calls.append(("copy", current[-1], device.type))
        return crops

    kept = []
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("consumer"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, side: kept.append((tensor, side.name)))
    monkeypatch.setattr(Crops, "to", to)
    copy = DeviceCopy(torch.device("cuda"))
    assert copy.pins_memory
    started = copy.start(CROPS)
    assert calls == [("copy", "side", "cuda"), ("record", "side")]
    assert copy.hand_over(started) is CROPS
    assert calls[2:] == [("wait", "consumer", "copied")]
    assert {id(tensor) for tensor, _ in kept} == {id(part) for part in (CROPS[0], *CROPS[1], *CROPS[2:])}
    assert {name for _, name in kept} == {"consumer"}
