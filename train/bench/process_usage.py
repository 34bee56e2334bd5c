"""CPU time and memory of a process together with its living descendants, on Linux."""

from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a process, its living descendants, and those that were waited for.

    0 if the process is gone.
    """
    return sum(map(_cpu_seconds_of_one, _family(pid)))


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its living descendants in bytes; shared pages are counted once.

    This is the proportional set size (PSS) of anonymous and of shared memory. Mapped files aren't counted: the kernel
    drops their pages when it needs the room. Neither is the page cache, which is the same for every reader of a file.
    0 if the process is gone.
    """
    return sum(_memory_bytes_of_one(process.pid) for process in _family(pid))


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_seconds_of_one(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def _memory_bytes_of_one(pid: int) -> int:
    # Not through psutil 7: its `pss` counts mapped files as well, and its `anonymous` counts shared pages repeatedly.
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended meanwhile
        return 0
    kibibytes = {name: amount for name, _, amount in (line.partition(":") for line in lines)}
    return sum(int(kibibytes.get(name, "0 kB").split()[0]) for name in ("Pss_Anon", "Pss_Shmem")) * 1024
