import sys

import numba
import numpy as np
import pytest
import torch
from numba import cfunc, types

from simsiam.kernels import openmp_team
from simsiam.kernels.openmp_team import pointer, run_on_team, team_size, thread_number


@cfunc(types.void(types.CPointer(types.int64)))
def count_up(words):
    given = numba.carray(words, 2)  # pyright: ignore[reportPrivateImportUsage]
    seen = numba.carray(pointer(given[0]), given[1], np.int64)  # pyright: ignore[reportPrivateImportUsage, reportCallIssue]
    seen[thread_number()] += team_size()


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch brings GNU's OpenMP on Linux alone")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_of_pytorchs_threads_runs_it_once(threads: int) -> None:
    before, seen = torch.get_num_threads(), np.zeros(8, np.int64)
    try:
        torch.set_num_threads(threads)
        for _ in range(5):
            run_on_team(count_up, [seen.ctypes.data, len(seen)])
    finally:
        torch.set_num_threads(before)
    assert seen.tolist() == [5 * threads] * threads + [0] * (8 - threads)


def test_without_that_openmp_one_thread_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openmp_team, "_openmp", None)
    seen = np.zeros(8, np.int64)
    run_on_team(count_up, [seen.ctypes.data, len(seen)])
    assert seen.tolist() == [1] + [0] * 7
