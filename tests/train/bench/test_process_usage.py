import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simsiam.train.bench.process_usage import cpu_seconds, memory_bytes

# Takes 40 MiB and 0.3 seconds of a core, and so does a child of it. Each line of input is answered with the CPU time
# of both so far; the first one ends the child.
_BUSY = """
import subprocess, sys, time
child, of_child = None, 0.0
if len(sys.argv) > 1:
    child = subprocess.Popen(
        [sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
held = b"x" * (40 * 2**20)
while time.process_time() < 0.3:
    pass
if child:
    of_child = float(child.stdout.readline())
print(time.process_time() + of_child, flush=True)
for line in sys.stdin:
    if child:
        of_child = float(child.communicate("end")[0])
        child = None
    print(time.process_time() + of_child, flush=True)
"""
_TICKS_SECONDS = 0.04
"""Linux counts CPU time in ticks of 0.01 s: rounding of the user and system time of two processes."""


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _BUSY, _BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_descendants_count_while_they_live_and_afterwards(busy: subprocess.Popen[str]) -> None:
    assert busy.stdin and busy.stdout
    before = float(busy.stdout.readline())
    used, memory = cpu_seconds(busy.pid), memory_bytes(busy.pid)
    busy.stdin.write("\n")
    busy.stdin.flush()
    after = float(busy.stdout.readline())
    assert before >= 0.6
    assert before - _TICKS_SECONDS <= used <= after + _TICKS_SECONDS
    assert 80 * 2**20 <= memory < 200 * 2**20
    assert cpu_seconds(busy.pid) >= after - _TICKS_SECONDS
    assert memory_bytes(busy.pid) < memory - 35 * 2**20


def test_a_process_that_is_gone_uses_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert (cpu_seconds(process.pid), memory_bytes(process.pid)) == (0, 0)


def test_memory_mapped_from_a_file_does_not_count(tmp_path: Path) -> None:
    script = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'rb')\n"
        "mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "print(len(mapped[::4096]), flush=True); sys.stdin.readline()"
    )
    (tmp_path / "large").write_bytes(os.urandom(64 * 2**20))
    command = [sys.executable, "-c", script, str(tmp_path / "large")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"16384\n"
        assert 0 < memory_bytes(process.pid) < 32 * 2**20
        process.kill()
