import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from simsiam.train.bench.process_usage import cpu_seconds, memory_bytes

# Takes 40 MiB and half a second of a core, in a child as well; the child ends when it is told to go on.
_BUSY = """
import subprocess, sys, time
child = None
if len(sys.argv) > 1:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
held = b"x" * (40 * 2**20)
while time.process_time() < 0.5:
    pass
print("ready", flush=True)
sys.stdin.readline()
if child:
    child.communicate()
    print("alone", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def busy() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _BUSY, _BUSY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def test_descendants_count_while_they_live_and_afterwards(busy: subprocess.Popen[str]) -> None:
    assert busy.stdin and busy.stdout
    both, memory = cpu_seconds(busy.pid), memory_bytes(busy.pid)
    assert 0.95 <= both < 3
    assert 80 * 2**20 <= memory < 200 * 2**20
    busy.stdin.write("\n")
    busy.stdin.flush()
    assert busy.stdout.readline() == "alone\n"
    assert both <= cpu_seconds(busy.pid) < both + 0.5
    assert memory_bytes(busy.pid) < memory - 35 * 2**20


def test_a_process_that_is_gone_uses_nothing() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert (cpu_seconds(process.pid), memory_bytes(process.pid)) == (0, 0)


def test_memory_mapped_from_a_file_does_not_count(tmp_path) -> None:
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
