"""What needs a GPU: `pytest tests/gpu`. Each file skips itself without one."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    """The GPU, on which Triton's kernels are compiled."""
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN, as in tests/kernels."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
