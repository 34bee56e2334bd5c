"""numba's compilers with a cache on disk, and a warning if there is none."""

import logging
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger(__name__)


def compiled_once(compiler: Callable[..., Any], *signature: object, **options: Any) -> Callable[[Callable], Any]:
    """Return `numba.njit` or `numba.cfunc` as a decorator that caches its machine code.

    The cache is next to the file or in the user's cache folder. If numba can write to neither, each process compiles
    again, and a warning gives the remedy.
    """

    def compile_function(function: Callable) -> Any:
        try:
            return compiler(*signature, cache=True, **options)(function)
        except RuntimeError as error:
            _logger.warning("%s: compiling again in each process; set NUMBA_CACHE_DIR to a writable folder", error)
            return compiler(*signature, **options)(function)

    return compile_function
