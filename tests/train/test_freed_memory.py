import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import torch
from simsiam.train.freed_memory import keep_freed_memory
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
