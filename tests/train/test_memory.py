import os
import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from simsiam.model.activation_checkpointing import recompute_blocks
from simsiam.model.resnet import resnet
from simsiam.pipeline.errors import RunError
from simsiam.train import memory as memory_estimate
from simsiam.train.memory import batch_that_fits, explain_out_of_memory

GIB = 2**30


@pytest.mark.parametrize(
    ("batch", "processes", "peak", "memory", "fits"),
    [
        # 1 GiB fixed, 99 for 512 images: (0.9 · 51 − 1) / (99 / 512) = 232.2
        (512, 1, 100, 51, 232),
        (512, 8, 100, 51, 192),
        # It failed at a peak below the memory: 0.9 of the batch at most.
        (512, 1, 70, 80, 456),
        # Never the batch that has just failed.
        (8, 1, 79, 80, 7),
        (64, 8, 79, 80, 56),
        (3, 1, 79, 80, 2),
        (2, 1, 79, 80, None),
        (16, 8, 79, 80, None),
        (512, 1, 100, 1, None),
    ],
)
def test_memory_grows_with_the_batch(batch: int, processes: int, peak: int, memory: int, fits: int | None) -> None:
    assert batch_that_fits(batch, peak * GIB, GIB, memory * GIB, processes) == fits


def test_error_names_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    device = torch.device("cuda:0")
    monkeypatch.setattr(memory_estimate, "_device_of", lambda _: device)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 79 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 80 * GIB))
    with (
        pytest.raises(RunError, match=r"80 GiB .* batch of 512, .* 79\.0 GiB .* estimate .* batch of 456 would"),
        explain_out_of_memory(model, 512),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_error_says_where_no_smaller_batch_would_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "_device_of", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 79 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 80 * GIB))
    with (
        pytest.raises(RunError, match=r"batch of 2, .* no smaller batch would fit: give smaller views"),
        explain_out_of_memory(nn.Linear(2, 2), 2),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("recomputed", [False, True])
def test_error_names_recompute_where_it_is_not_used_yet(monkeypatch: pytest.MonkeyPatch, recomputed: bool) -> None:
    encoder = resnet("resnet18")
    if recomputed:
        recompute_blocks(encoder)
    monkeypatch.setattr(memory_estimate, "_device_of", lambda _: torch.device("cuda:0"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 79 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (0, 80 * GIB))
    with pytest.raises(RunError) as told, explain_out_of_memory(nn.Sequential(encoder), 512):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert ("With recompute" in str(told.value)) == (not recomputed)
    assert told.value.argument == "batch_size"


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**40, dtype=torch.uint8), lambda: np.empty(2**40, np.uint8)])
def test_a_cpus_memory_is_told_likewise(allocate: Callable[[], object]) -> None:
    gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    said = rf"This machine's {gib:.0f} GiB are too small for a batch of 2400, .* estimate .* batch of (\d+) would"
    with pytest.raises(RunError, match=said) as told, explain_out_of_memory(nn.Linear(1, 1), 2400, 2):
        allocate()
    (fits,) = re.findall(said, str(told.value))
    assert int(fits) % 16 == 0 and int(fits) == pytest.approx(2400 * 0.9 * gib / 1024, rel=0.05)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), explain_out_of_memory(nn.Linear(1, 1), 8):
        raise KeyError("x")


SCRIPT = """
import resource, sys
import torch
from simsiam.train.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()

for _ in range(20):  # the first ones find no place yet
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is the GNU C library's")
def test_large_tensors_are_written_to_pages_that_are_there_already() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, timeout=60).stdout)
        for how in ("give back", "keep")
    }
    assert faults["keep"] < 100 < 10_000 < faults["give back"]  # 64 MiB are 16,384 pages
