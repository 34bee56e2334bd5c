"""Team of PyTorch's OpenMP threads, which runs a function compiled by numba.

Why: PyTorch's threads wait for work by spinning, so that threads of our own would share their cores with them: two of
ours took as long as one. GNU's OpenMP, which PyTorch includes on Linux, lets its team run any function. To switch it
off, set `fused_batch_norm: off` in a run's configuration: only `batch_norm_relu_cpu.py` uses it.
"""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _load_openmp() -> ctypes.CDLL:
    """Load the OpenMP that PyTorch's library is linked to: another one in this process has other threads."""
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


@ctypes.CFUNCTYPE(ctypes.c_int)
def _zero() -> int:
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int)
def _one() -> int:
    return 1


def _address(library: Any, name: str, default: Any) -> int | None:
    return ctypes.cast(getattr(library, name, default), ctypes.c_void_p).value


try:
    _openmp: Any = _load_openmp()
    _openmp.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    _openmp.GOMP_parallel.restype = None
except (OSError, AttributeError):  # another system, or PyTorch with another OpenMP: one thread runs the function
    _openmp = None

# By name, since machine code that contains an address can't be cached on disk.
llvmlite.binding.add_symbol("simsiam_thread_number", _address(_openmp, "omp_get_thread_num", _zero))
llvmlite.binding.add_symbol("simsiam_team_size", _address(_openmp, "omp_get_num_threads", _one))
thread_number = types.ExternalFunction("simsiam_thread_number", types.int32())
"""In compiled code: the index of this thread in the team."""
team_size = types.ExternalFunction("simsiam_team_size", types.int32())
"""In compiled code: the number of threads in the team."""


def run_on_team(function: Any, arguments: Sequence[int]) -> None:
    """Call `function` in each of PyTorch's threads in parallel, and wait for all.

    `function` is a `numba.cfunc` of a pointer to int64: the `arguments`, which are numbers and addresses of memory that
    the caller keeps alive.
    """
    words = np.array(arguments, np.int64)
    if _openmp is None:
        function.ctypes(words.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
    else:
        _openmp.GOMP_parallel(function.address, words.ctypes.data, torch.get_num_threads(), 0)


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """In compiled code: convert an address to a pointer that `numba.carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate
