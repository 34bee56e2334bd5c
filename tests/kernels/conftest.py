"""The kernels' tests run wherever the fixture `device` says: here on the CPU, in tests/gpu on a GPU."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """The CPU, on which Triton's kernels are interpreted; with a GPU at hand they are compiled, in tests/gpu."""
    if torch.cuda.is_available():
        pytest.skip("tests/gpu runs this on the GPU")
    return torch.device("cpu")


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN, or with the largest integer, so that what stays unwritten is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
