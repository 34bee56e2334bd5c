"""Fixtures of the kernels' tests. They run on the fixture `device`: here the CPU, in tests/gpu a GPU."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """The CPU, on which Triton's kernels are interpreted; if there is a GPU, tests/gpu compiles and runs them."""
    if torch.cuda.is_available():
        pytest.skip("tests/gpu runs this on the GPU")
    return torch.device("cpu")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN, or with the largest integer, so that unwritten values are seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
