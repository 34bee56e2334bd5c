"""A Python function → machine code by numba, which is compiled once on a machine where it can be kept."""

import logging
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger(__name__)


def compiled_once(compiler: Callable[..., Any], *signature: object, **options: Any) -> Callable[[Callable], Any]:
    """Return `numba.njit` or `numba.cfunc` as a decorator whose result is kept, beside the file or in the user's cache.

    Where numba may write to neither, each process compiles anew, and a warning names the way out.
    """

    def compile_function(function: Callable) -> Any:
        try:
            return compiler(*signature, cache=True, **options)(function)
        except RuntimeError as error:
            _logger.warning("%s: compiling in each process anew; set NUMBA_CACHE_DIR to a writable folder", error)
            return compiler(*signature, **options)(function)

    return compile_function
