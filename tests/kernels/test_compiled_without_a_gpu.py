"""The kernels compiled for GPUs: the other tests on a CPU only interpret them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KERNELS = sorted((HERE.parents[1] / "kernels").glob("*_triton.py"))


def launched_kernels() -> set[str]:
    """Return the names of all kernels that are launched, as in `_kernel[grid](…)`."""
    return {name for file in KERNELS for name in re.findall(r"\b(_\w+)\[[^\]]+\]\(", file.read_text())}


@pytest.mark.parametrize("capability", [80, 90], ids=["A100", "H100"])
def test_every_kernel_compiles_without_spilling_registers(capability: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, HERE / "compile_without_a_gpu.py", str(capability)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    kernels = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, _, _ in kernels} == launched_kernels()
    assert all(int(size) > 0 for _, size, _ in kernels)
    assert [name for name, _, spilled in kernels if int(spilled) > 0] == []
