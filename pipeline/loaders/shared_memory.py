"""Shared memory, /dev/shm: what crops on their way from worker processes take of it, and what is free."""

import shutil
from pathlib import Path

from simsiam.pipeline.plan import CropPlan

STEPS_AHEAD = 2
"""Steps that each worker process prepares; the DataLoader's `prefetch_factor`."""
_STEPS_IN_USE = 2
"""Steps that the training holds, as one is copied to the device while the last one is computed."""
_BYTES_A_VIEW = 43
"""Bytes of a view's `Draws`: a sum over its fields."""


def free_shared_memory() -> int | None:
    """Return the free bytes of /dev/shm; None on a system without it."""
    return shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None


def shared_bytes(workers: int, images: int, size: int, views: int = 2) -> int:
    """Return the bytes of shared memory that `workers` loader processes take for steps of `images`, crops of `size`."""
    bytes_a_step = images * (views * (3 * size**2 + _BYTES_A_VIEW) + 16)
    return (STEPS_AHEAD * workers + _STEPS_IN_USE) * bytes_a_step if workers else 0


def _needed(plan: CropPlan, workers: int, processes: int) -> int:
    images = plan.batch_size // plan.world_size
    return processes * shared_bytes(workers, images, plan.crop_size, plan.views)


def workers_that_fit(plan: CropPlan, workers: int, processes: int = 1) -> int:
    """Return how many of `workers` loader processes shared memory has room for, 0 to `workers`.

    `processes` of a training share it, each with as many workers.
    """
    free = free_shared_memory()
    while workers and free is not None and _needed(plan, workers, processes) > free:
        workers -= 1
    return workers


def too_little(plan: CropPlan, workers: int, processes: int = 1) -> str:
    """Return, for a message, that shared memory has no room for `workers`, and what gives it more."""
    needed, free = _needed(plan, workers, processes), free_shared_memory() or 0
    return (
        f"/dev/shm has {free / 2**20:,.0f} MiB free, and the crops of {workers} loader processes need"
        f" {needed / 2**20:,.0f} MiB (a container gets more by --shm-size={max(1, -(-needed // 2**30))}g)"
    )
