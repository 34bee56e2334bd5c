"""Every test of a Triton kernel in tests/kernels again, the kernels compiled for the GPU."""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("poisoned_memory")

FILES = sorted((Path(__file__).parents[1] / "kernels").glob("test_*_triton.py"))


def functions_of(file: Path) -> Iterator[tuple[str, Callable]]:
    """Yield the tests of a file with names that include the file's."""
    spec = importlib.util.spec_from_file_location(f"compiled_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, test in vars(module).items():
        if name.startswith("test_"):
            yield f"test_{file.stem.removeprefix('test_').removesuffix('_triton')}: {name.removeprefix('test_')}", test


for kernel_file in FILES:
    globals().update(functions_of(kernel_file))
