"""Environment: hardware and software versions, to report with a result."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from simsiam.pipeline.loaders.shared_memory import free_shared_memory
from simsiam.pipeline.worker_count import available_cores

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


OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Variables that decide how many threads OpenMP has, and how they wait (libgomp's manual, "Environment Variables")."""


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def describe_load(cores: int) -> str | None:
    """Return that other programs use this machine, in words; None if the last minute's load left half of `cores`."""
    load = os.getloadavg()[0]
    if load < cores / 2:
        return None
    return f"Load before this run: {load:.1f} on {cores} cores; beside other programs its rates are lower than alone"


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
        "openmp": {name: os.environ[name] for name in OPENMP if name in os.environ},
        "load": round(os.getloadavg()[0], 2),
        "shared_memory_bytes": free_shared_memory(),
    }
