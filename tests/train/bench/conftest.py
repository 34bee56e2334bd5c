"""Shared by the tests of the benches: rows that run in the tests' own process, and FFCV present or absent."""

import sys
from collections.abc import Callable, Generator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pytest

from simsiam.train.config import DataConfig, ModelConfig, PretrainConfig

PEAK_MEMORY_BYTES = 2**20
STEP_CONFIG = PretrainConfig(
    batch_size=8,
    device="cpu",
    model=ModelConfig("resnet18", projector_layers=2, projection_dim=32, prediction_hidden=8),
    data=DataConfig(size=16, workers=0),
)
"""A small training; nothing is read."""


class SameProcess:
    """Stands in for PinnedProcess: the row runs in this process. `asked` collects what is asked of the rows."""

    def __init__(self, name: str, function: Callable[..., Generator], *arguments: Any, asked: list[str]) -> None:
        self.peak_memory_bytes = PEAK_MEMORY_BYTES
        self._name, self._items, self._asked = name, function(*arguments), asked

    def __next__(self) -> Any:
        self._asked.append(self._name)
        return next(self._items)

    def close(self) -> None:
        self._asked.append(f"{self._name} closed")
        self._items.close()


class SameProcessRows:
    """Starts rows in this process: give it as `start_row`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        """Names of the rows in the order in which they were asked for an item, or `NAME closed`."""
        self.cores: list[Sequence[int]] = []
        """The cores that each row was to get."""

    def __call__(
        self, name: str, cores: Sequence[int], function: Callable[..., Generator], *arguments: Any
    ) -> SameProcess:
        self.cores.append(cores)
        return SameProcess(name, function, *arguments, asked=self.asked)


@pytest.fixture
def installed_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have FFCV found, whether it is installed or not."""
    ffcv = ModuleType("ffcv")
    ffcv.__spec__ = ModuleSpec("ffcv", None)
    monkeypatch.setitem(sys.modules, "ffcv", ffcv)


@pytest.fixture
def missing_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have FFCV not found, even if it is installed."""
    monkeypatch.setitem(sys.modules, "ffcv", None)


@pytest.fixture
def same_process() -> SameProcessRows:
    return SameProcessRows()
