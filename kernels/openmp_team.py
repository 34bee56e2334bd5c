"""A function compiled by numba, run by the threads that PyTorch computes with.

PyTorch's OpenMP threads wait for work by spinning, so that threads of our own would share their cores with them: two of
ours took as long as one. GNU's OpenMP, which PyTorch brings on Linux, lets a function be run by the same team.
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
    """Load what PyTorch's library is linked to: another OpenMP in this process has other threads."""
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


@ctypes.CFUNCTYPE(ctypes.c_int)
def _zero() -> int:
    return 0


@ctypes.CFUNCTYPE(ctypes.c_int)
def _one() -> int:
    return 1


def _address(library: Any, name: str, instead: Any) -> int | None:
    return ctypes.cast(getattr(library, name, instead), ctypes.c_void_p).value


try:
    _openmp: Any = _load_openmp()
    _openmp.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    _openmp.GOMP_parallel.restype = None
except (OSError, AttributeError):  # another system, or PyTorch with another OpenMP: one thread does it
    _openmp = None

# By names, since code with an address in it can't be kept on the disk.
llvmlite.binding.add_symbol("simsiam_thread_number", _address(_openmp, "omp_get_thread_num", _zero))
llvmlite.binding.add_symbol("simsiam_team_size", _address(_openmp, "omp_get_num_threads", _one))
thread_number = types.ExternalFunction("simsiam_thread_number", types.int32())
"""In compiled code: which thread of the team this is, from 0."""
team_size = types.ExternalFunction("simsiam_team_size", types.int32())
"""In compiled code: how many there are."""


def run_on_team(function: Any, arguments: Sequence[int]) -> None:
    """Call `function` in as many threads as PyTorch uses, at once, and wait for all.

    `function` is a `numba.cfunc` of a pointer to int64: to the `arguments`, numbers and addresses alike.
    """
    words = np.array(arguments, np.int64)
    if _openmp is None:
        function.ctypes(words.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)))
    else:
        _openmp.GOMP_parallel(function.address, words.ctypes.data, torch.get_num_threads(), 0)


@intrinsic
def pointer(typing_context: Any, address: Any) -> Any:
    """In compiled code: an address as a pointer that `numba.carray` takes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate
