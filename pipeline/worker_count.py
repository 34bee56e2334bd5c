"""Default number of worker processes or threads: one for each core that this program may use."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

from simsiam.pipeline.errors import UsageError

_CGROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Return how many cores this program may use.

    That is the machine's number, what `taskset` or a container's `--cpuset-cpus` leave of it, or what the quota of a
    container (`--cpus`) comes to, rounded up: whichever is least.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota(cgroups: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return how many cores' time the control groups of this process grant it; None without a limit.

    Of nested groups the tightest counts. Both versions of control groups are read (Linux's documentation:
    admin-guide/cgroup-v2, `cpu.max`; scheduler/sched-bwc, `cpu.cfs_quota_us`).
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    found: list[float] = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            found += [_ratio(*limit.split()) for limit in _read_up(cgroups, group, "cpu.max")]
        elif "cpu" in controllers.split(","):
            root = cgroups / controllers
            quotas, periods = (_read_up(root, group, f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            found += map(_ratio, quotas, periods)
    return min((each for each in found if each > 0), default=None)


def _read_up(root: Path, group: str, name: str) -> Iterator[str]:
    """Yield a file of a group and of those it is in; in a container, the group's path may begin outside of it."""
    folder = root / group.strip("/")
    for each in (folder, *folder.parents):
        with contextlib.suppress(OSError):
            yield (each / name).read_text()
        if each == root:
            return


def _ratio(quota: str, period: str) -> float:
    """Return a quota of a period in cores; 0 for no limit."""
    return 0.0 if quota.strip() in ("max", "-1") else int(quota) / int(period)


def worker_count(asked: int | None, at_least: int = 0) -> int:
    """Return how many workers to start: `asked`, or one for each core. Raises UsageError below `at_least`."""
    if asked is not None and asked < at_least:
        raise UsageError(f"workers is {asked}; give {at_least or '0 (in this process)'} or more.", argument="workers")
    return available_cores() if asked is None else asked
