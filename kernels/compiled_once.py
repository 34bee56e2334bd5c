"""numba's compilers with a cache on disk, and a warning if there is none."""

import functools
import warnings
from collections.abc import Callable
from typing import Any


def compiled_once(compiler: Callable[..., Any], *signature: object, **options: Any) -> Callable[[Callable], Any]:
    """Return `numba.njit` or `numba.cfunc` as a decorator that caches its machine code.

    The cache is next to the file or in the user's cache folder. If numba can write to neither, as in a container with
    a read-only file system or for a user without a home, each process compiles again, and one warning gives the
    remedy.
    """

    def compile_function(function: Callable) -> Any:
        try:
            return compiler(*signature, cache=True, **options)(function)
        except (RuntimeError, OSError):  # no folder for the cache, or no space in it
            _warn_once()
            return compiler(*signature, **options)(function)

    return compile_function


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "numba can write to no cache folder, so each process compiles again, which takes some seconds; set"
        " NUMBA_CACHE_DIR to a writable folder",
        stacklevel=1,
    )
