"""Turns of a bench's rows: each row has a process of its own, and one at a time is measured, all on the same cores."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from simsiam.train.bench.pinned_process import PinnedProcess

First = TypeVar("First")
Round = TypeVar("Round")


class Measurement(NamedTuple, Generic[First, Round]):
    """All that was measured of a row."""

    name: str
    first: First
    """What the row yielded before the rounds: what it does once."""
    rounds: Sequence[Round]
    peak_memory_bytes: int


class RowProcess(Protocol):
    """The process of a row; see `PinnedProcess`."""

    peak_memory_bytes: int

    def __next__(self) -> Any:
        """Return the next item of the row."""

    def close(self) -> None:
        """End the process."""


StartRow = Callable[..., RowProcess]
"""Called as `start_row(name, cores, function, *arguments)`."""


def take_turns(
    function: Callable[..., Any],
    rows: Mapping[str, Any],
    cores: Sequence[int],
    rounds: int,
    *,
    first: str | None,
    say: Callable[[str], None],
    start_row: StartRow = PinnedProcess,
) -> list[Measurement]:
    """Run the generator `function(settings)` for each row, `rows` being settings by name, and ask each in turn.

    Each row is idle while another one is measured. `first` is what the first item of a row is called; None: its first
    item is that of the first round. `say` is told what is measured now.
    """
    with ExitStack() as stack:
        processes: list[RowProcess] = []
        firsts: list[Any] = []
        turns_of_rows: list[list[Any]] = [[] for _ in rows]
        for name, settings in rows.items():
            if first is not None:
                say(f"{first}: {name}")
            process = start_row(name, cores, function, settings)
            processes.append(stack.enter_context(closing(process)))
            firsts.append(None if first is None else next(process))
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}")
            for process, turns in zip(processes, turns_of_rows, strict=True):
                turns.append(next(process))
        peaks = [process.peak_memory_bytes for process in processes]
    return list(map(Measurement, rows, firsts, turns_of_rows, peaks))
