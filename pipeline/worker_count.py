"""Number of worker processes or threads: by default one for each core that this program may use."""

import os

from simsiam.pipeline.errors import UsageError


def available_cores() -> int:
    """Return how many cores this program may use, which containers and `taskset` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int | None) -> int:
    """Return how many loader processes to start: `asked`, or one for each core. Raises UsageError below 0."""
    if asked is not None and asked < 0:
        raise UsageError(f"workers is {asked}; give 0 (in this process) or more.")
    return available_cores() if asked is None else asked
