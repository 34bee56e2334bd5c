"""Rows of a bench → each in a process of its own, taking turns on the same cores: what each of them yields."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any, Generic, NamedTuple, TypeVar

from simsiam.train.bench.pinned_process import PinnedProcess

First = TypeVar("First")
Round = TypeVar("Round")


class Measurement(NamedTuple, Generic[First, Round]):
    """All that was measured of a row."""

    name: str
    first: First
    """What it yielded before the rounds: what it does once."""
    rounds: Sequence[Round]
    peak_memory_bytes: int


def take_turns(
    function: Callable[..., Any],
    rows: Mapping[str, Any],
    cores: Sequence[int],
    rounds: int,
    say: Callable[[str], None],
    first: str,
) -> list[Measurement]:
    """Run the generator `function(settings)` for each row, `rows` being settings by name, and ask each in turn.

    Each row lives in a process of its own, on the same cores, and rests while another one is measured. `say` is told
    what is measured now; `first` is what the first item of a row is called.
    """
    with ExitStack() as stack:
        processes: list[PinnedProcess] = []
        firsts: list[Any] = []
        turns_of_rows: list[list[Any]] = [[] for _ in rows]
        for name, settings in rows.items():
            say(f"{first}: {name}")
            process = PinnedProcess(name, cores, function, settings)
            processes.append(stack.enter_context(closing(process)))
            firsts.append(next(process))
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}")
            for process, turns in zip(processes, turns_of_rows, strict=True):
                turns.append(next(process))
        peaks = [process.peak_memory_bytes for process in processes]
    return list(map(Measurement, rows, firsts, turns_of_rows, peaks))
