"""Machine and software → what a result must be quoted with."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

from simsiam.pipeline.errors import UsageError

PACKAGES = (
    "simsiam",
    "torch",
    "torchvision",
    "triton",
    "numpy",
    "pillow",
    "ffcv",
    "nvidia-dali-cuda130",
    "nvidia-dali-cuda120",
)


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def available_cores() -> int:
    """Return how many cores this program may use, which containers and `taskset` make fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(asked: int | None) -> int:
    """Return how many loader processes to start: `asked`, or one for each core. Raises UsageError below 0."""
    if asked is not None and asked < 0:
        raise UsageError(f"workers is {asked}; give 0 (in this process) or more.")
    return available_cores() if asked is None else asked


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def shared_memory_bytes() -> int | None:
    """Return the free space of /dev/shm, through which loader processes hand over their batches; None without it."""
    return shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else None


def describe_environment() -> dict[str, Any]:
    """Return versions and hardware, ready for JSON."""
    import torch

    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return {
        "packages": {name: version for name in PACKAGES if (version := package_version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": available_cores(),
        "gpus": [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus],
        "cuda": torch.version.cuda,
        "torch_threads": torch.get_num_threads(),
        "shared_memory_bytes": shared_memory_bytes(),
    }
