import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this once, when it is imported, which any test file may do.
    os.environ["TRITON_INTERPRET"] = "1"

# Recorded before any test file is imported: importing FFCV sets one thread for all of PyTorch, on which sums of floats
# depend, and importing OpenCV sets LD_LIBRARY_PATH.
_THREADS = torch.get_num_threads()
_DETERMINISTIC = torch.are_deterministic_algorithms_enabled()
_MATMUL_PRECISION = torch.get_float32_matmul_precision()
_CUDNN = {name: getattr(torch.backends.cudnn, name) for name in ("allow_tf32", "benchmark", "deterministic")}
_ENVIRONMENT = dict(os.environ)


# Files that take longest, by far: they start first, so that no process of pytest-xdist is left alone with one.
_SLOWEST = ("test_torchrun.py", "test_pretrain_resume.py", "test_step.py", "test_reference_training.py", "test_loss.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in _SLOWEST)


def restore_settings() -> None:
    """Restore what the training and FFCV set for the whole process, and seed the global generators."""
    torch.set_num_threads(_THREADS)
    if torch.are_deterministic_algorithms_enabled() != _DETERMINISTIC:
        torch.use_deterministic_algorithms(_DETERMINISTIC)
    torch.set_float32_matmul_precision(_MATMUL_PRECISION)
    for name, value in _CUDNN.items():
        setattr(torch.backends.cudnn, name, value)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.default_generator.manual_seed(0)


def restore_environment(environment: dict[str, str]) -> None:
    now = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    if now != environment:
        for name in now.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@pytest.fixture(scope="session", autouse=True)
def session_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Give fixtures that outlive a test the state at the start of the process, and a cache that isn't the user's."""
    environment = _ENVIRONMENT | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("session_cache"))}
    restore_settings()
    restore_environment(environment)
    yield environment
    restore_environment(_ENVIRONMENT)


@pytest.fixture(autouse=True)
def process_state(session_environment: dict[str, str]) -> Iterator[None]:
    """Start each test from the same state of the process, in whatever order they run."""
    restore_settings()
    yield
    restore_settings()  # for the fixtures of a wider scope that the next test needs, too
    restore_environment(session_environment)


@pytest.fixture(autouse=True)
def cache_home(process_state: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the tests' scans out of the user's cache."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    return home
