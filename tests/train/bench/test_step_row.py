from collections.abc import Generator

import torch

from simsiam.train.bench.step_contenders import StepRow
from simsiam.train.bench.step_row import rounds_of
from simsiam.train.bench.step_stages import Products


def test_a_round_counts_what_was_waited_for_in_its_windows_alone() -> None:
    now = [0.0]

    def taking(seconds: float) -> None:
        now[0] += seconds

    def loaded() -> Generator[int]:
        for number in range(99):
            taking(9.0 if number < 2 else 0.25)  # the first two warm up
            yield number

    products = Products(torch.float32)
    row = StepRow(loaded(), lambda batch, mark: taking(1.0), torch.nn.Linear(1, 1), "ffcv", "fp32", products)
    rounds = rounds_of(row, torch.device("cpu"), batch_size=8, seconds=5.0, warm_up_steps=2, clock=lambda: now[0])
    for _ in range(2):
        turn = next(rounds)
        assert (sum(window.images for window in turn.windows), turn.device_memory_bytes) == (32, None)
        assert (sum(window.seconds for window in turn.windows), turn.wait_seconds) == (5.0, 1.0)
