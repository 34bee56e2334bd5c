"""Compiler of every Triton kernel for GPUs of a compute capability, its argument; it launches nothing, needs no GPU.

It prints a line for each kernel and setting: name, bytes of machine code, bytes of spilled registers. It is a program
of its own, since Triton decides once in a process whether it interprets or compiles.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from simsiam.kernels import batch_norm_relu_backward_triton, batch_norm_relu_triton
from simsiam.kernels.augment import IMAGENET_MEAN, IMAGENET_STD
from simsiam.kernels.augment_contract import PhotometricDraws
from simsiam.kernels.augment_triton import augment_views_triton
from simsiam.kernels.batch_norm_relu_contract import Norm
from simsiam.kernels.negative_cosine_triton import negative_cosine_backward_triton, negative_cosine_triton

_PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"


class DriverWithoutGpu:
    """Tells Triton the target to compile for, and nothing else."""

    def __init__(self, capability: int) -> None:
        self._target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_all(capability: int) -> list[tuple[str, Any]]:
    """Return every kernel of the project with its name, compiled but never run."""
    driver.set_active(DriverWithoutGpu(capability))  # pyright: ignore[reportArgumentType]
    kernels: dict[int, tuple[str, Any]] = {}
    launch: Callable[..., Any] = JITFunction.run

    def compile_only(function: JITFunction, *arguments: Any, grid: Any, warmup: bool, **settings: Any) -> Any:
        kernel = launch(function, *arguments, grid=grid, warmup=True, **settings)
        kernels[id(kernel)] = function.fn.__name__, kernel
        return kernel

    with patch.object(JITFunction, "run", compile_only):
        for dtype in (torch.bfloat16, torch.float32):
            for size in (224, 32):
                _augment(size, dtype)
            _compare(dtype)
            _normalize(dtype)
    return list(kernels.values())


def _augment(size: int, dtype: torch.dtype) -> None:
    pixels = torch.zeros((4, 2, size, size, 3), dtype=torch.uint8)
    views = torch.zeros((4, 2))
    fours = torch.zeros((4, 2, 4))
    draws = PhotometricDraws(views.bool(), fours, fours.byte(), views.bool(), views, views.bool())
    augment_views_triton(pixels, draws, mean=IMAGENET_MEAN, std=IMAGENET_STD, dtype=dtype, blur_kernel=23)


def _compare(dtype: torch.dtype) -> None:
    p1, p2, z1, z2 = torch.zeros((4, 4, 2048), dtype=dtype)
    negative_cosine_triton(p1, p2, z1, z2, 1e-8)
    negative_cosine_backward_triton(torch.ones(()), p1, p2, z1, z2, 1e-8)


def _normalize(dtype: torch.dtype) -> None:
    x = torch.zeros((4, 256, 56, 56), dtype=dtype).to(memory_format=torch.channels_last)
    norm = Norm(torch.zeros((2, 256)), torch.zeros((2, 256)), torch.zeros(256), torch.zeros(256), 1e-5)
    batch_norm_relu_triton.local_statistics(x, 2)
    for residual in (None, x):
        batch_norm_relu_triton.normalize(x, residual, norm, True)
        cut, sums, _ = batch_norm_relu_backward_triton.gradient_sums(x, x, residual, norm, True)
        batch_norm_relu_backward_triton.input_gradient(x, x, norm, sums, 1, cut is None)


def spilled_bytes(ptx: str) -> int:
    """Return how many bytes of registers the assembler says that it had to put into memory."""
    architecture = re.search(r"\.target (sm_\w+)", ptx)
    assert architecture is not None
    with NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [str(_PTXAS), "-v", f"--gpu-name={architecture[1]}", file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return sum(map(int, re.findall(r"(\d+) bytes spill", said)))


if __name__ == "__main__":
    for name, kernel in compile_all(int(sys.argv[1])):
        print(name, len(kernel.asm["cubin"]), spilled_bytes(kernel.asm["ptx"]))
