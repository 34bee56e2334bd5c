import warnings
from collections.abc import Callable
from typing import Any

import pytest
from numba import cfunc, njit, types
from numba.core import caching

from simsiam.kernels import compiled_once as compiled_once_module
from simsiam.kernels.compiled_once import compiled_once


@pytest.mark.parametrize(
    ("compiler", "signature", "call"),
    [
        (njit, (), lambda compiled: compiled(1)),
        (cfunc, (types.int64(types.int64),), lambda compiled: compiled.ctypes(1)),
    ],
    ids=["njit", "cfunc"],
)
def test_without_a_cache_it_warns_and_still_compiles(
    compiler: Callable,
    signature: tuple[Any, ...],
    call: Callable[[Any], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    compiled_once_module._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR"):
        compiled = compiled_once(compiler, *signature)(lambda number: number + 1)
    assert call(compiled) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough, however many functions there are
        compiled_once(compiler, *signature)(lambda number: number + 1)
