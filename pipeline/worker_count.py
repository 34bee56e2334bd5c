"""Default number of worker processes or threads: one for each core that this program may use."""

import os

from simsiam.pipeline.errors import UsageError


def available_cores() -> int:
    """Return how many cores this program may use: containers and `taskset` may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int | None, at_least: int = 0) -> int:
    """Return how many workers to start: `asked`, or one for each core. Raises UsageError below `at_least`."""
    if asked is not None and asked < at_least:
        raise UsageError(f"workers is {asked}; give {at_least or '0 (in this process)'} or more.", argument="workers")
    return available_cores() if asked is None else asked
