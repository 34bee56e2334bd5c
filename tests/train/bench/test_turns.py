from collections.abc import Generator

import pytest

from simsiam.train.bench.turns import Measurement, take_turns


def numbers(start: int) -> Generator[int]:
    while True:
        yield start
        start += 1


def test_rows_take_turns_and_each_keeps_its_own_items(same_process) -> None:
    said: list[str] = []
    rows = {"tens": 10, "hundreds": 100}
    measured = take_turns(numbers, rows, (3, 4), 2, first="Start", say=said.append, start_row=same_process)
    assert measured == [
        Measurement("tens", 10, [11, 12], peak_memory_bytes=2**20),
        Measurement("hundreds", 100, [101, 102], peak_memory_bytes=2**20),
    ]
    assert same_process.asked == [*["tens", "hundreds"] * 3, "hundreds closed", "tens closed"]
    assert same_process.cores == [(3, 4)] * 2
    assert said == ["Start: tens", "Start: hundreds", "Round 1 of 2", "Round 2 of 2"]


def test_rows_that_do_nothing_once_start_with_the_first_round(same_process) -> None:
    said: list[str] = []
    (measured,) = take_turns(numbers, {"tens": 10}, (0,), 2, first=None, say=said.append, start_row=same_process)
    assert (measured.first, measured.rounds, said) == (None, [10, 11], ["Round 1 of 2", "Round 2 of 2"])


def test_rows_are_closed_when_one_fails(same_process) -> None:
    def interrupt(text: str) -> None:
        if text == "Round 1 of 2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        take_turns(numbers, {"tens": 10, "ones": 1}, (0,), 2, first="Start", say=interrupt, start_row=same_process)
    assert same_process.asked == ["tens", "ones", "ones closed", "tens closed"]
