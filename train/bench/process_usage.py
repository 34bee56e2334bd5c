"""A process of Linux → the CPU time and the memory that it and its descendants use, read from /proc."""

import contextlib
import os
from pathlib import Path
from typing import NamedTuple


class _Process(NamedTuple):
    parent: int
    ticks: int


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, its living descendants, and those that were waited for."""
    processes = _processes()
    return sum(processes[each].ticks for each in _tree(pid, processes)) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its living descendants, what they share counted once.

    It is the proportional set size of anonymous and of shared memory. Mapped files aren't counted: the kernel drops
    their pages when it needs the room. Neither is the page cache, which is the same for every reader of a file.
    """
    return sum(map(_memory_of_one, _tree(pid, _processes())))


def _processes() -> dict[int, _Process]:
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                # The command's name, in brackets, may hold anything; proc_pid_stat(5) numbers what follows from 3.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = _Process(int(fields[1]), sum(map(int, fields[11:15])))
    return found


def _tree(pid: int, processes: dict[int, _Process]) -> list[int]:
    tree = [pid] if pid in processes else []
    for member in tree:  # grows meanwhile
        tree += [child for child, process in processes.items() if process.parent == member]
    return tree


def _memory_of_one(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    kibibytes = {name: amount for name, _, amount in (line.partition(":") for line in lines)}
    return sum(int(kibibytes.get(name, "0 kB").split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) * 1024
