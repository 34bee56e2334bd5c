"""Machine: what a run needs besides packages. The start of a run and `doctor` ask by the same code."""

import os
import resource
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.loaders.shared_memory import STEPS_AHEAD, free_shared_memory, shared_bytes
from simsiam.pipeline.worker_count import available_cores, cpu_quota


class Finding(NamedTuple):
    """One thing that a run needs, or can use."""

    state: Literal["ok", "missing", "problem"]
    """`missing` is optional, a `problem` will hurt a run."""
    what: str
    advice: str = ""


def find_compiler(device_type: str) -> Finding:
    """Look for what torch.compile (on a CPU) or Triton (on a GPU, for this project's own kernels) compiles with.

    The names are theirs: PyTorch takes `CXX` or g++, Triton `CC`, gcc or clang; both include `Python.h`.
    """
    variable, names, package = ("CC", ("gcc", "clang"), "gcc")
    if device_type == "cpu":
        variable, names, package = ("CXX", ("g++",), "g++")
    given = os.environ.get(variable)
    found = next((path for name in ([given] if given else names) if (path := shutil.which(name))), None)
    use = "torch.compile" if device_type == "cpu" else "the GPU's kernels"
    if found is None:
        what = f"{variable}={given}, which is no program" if given else f"there is no {' or '.join(names)}"
        return Finding("problem", f"Compiler for {use}: {what}", f"apt-get install {package}, or set {variable}")
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.exists():
        return Finding("problem", f"Compiler for {use}: there is no {header}", "apt-get install python3-dev")
    return Finding("ok", f"Compiler for {use}: {found}")


def describe_cores(name: str) -> Finding:
    """Say how many cores a run may use of a CPU called `name`, and why not all."""
    quota, all_cores, cores = cpu_quota(), os.cpu_count() or 1, available_cores()
    limit = f", by a quota of {quota:g}" if quota is not None and quota < all_cores else ""
    return Finding("ok", f"CPU: {name}, {cores} of {all_cores} cores for this program{limit}")


def find_shared_memory(images: int, size: int, workers: int) -> Finding | None:
    """Compare what `workers` loader processes need for `images` of 2 views of `size` pixels; None without /dev/shm."""
    free, needed = free_shared_memory(), shared_bytes(workers, images, size)
    if free is None:
        return None
    what = (
        f"/dev/shm: {free / 2**30:.1f} GiB free; {workers} loader processes for steps of {images} images at {size} px"
        f" need {needed / 2**30:.1f} GiB"
    )
    if needed <= free:
        return Finding("ok", what)
    advice = f"start a container with --shm-size={-(-needed // 2**30)}g; otherwise fewer processes are started"
    return Finding("problem", what, advice)


def find_open_files(workers: int) -> Finding:
    """Compare the limit of open files, up to which a run may raise its own, with what `workers` processes need."""
    needed, (_, hard) = _open_files(workers), resource.getrlimit(resource.RLIMIT_NOFILE)
    what = f"Open files: {hard if hard != resource.RLIM_INFINITY else 'any number'} allowed, {needed} needed"
    if hard == resource.RLIM_INFINITY or hard >= needed:
        return Finding("ok", what)
    return Finding(
        "problem", what, f"raise the limit: ulimit -Hn {needed} as root, or docker run --ulimit nofile={needed}"
    )


def raise_open_files(workers: int) -> None:
    """Raise this process's limit of open files as far as it may, if `workers` loader processes need it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_files(workers)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _open_files(workers: int) -> int:
    # Each tensor on its way from a process is an open file, ten for a step; pipes; and the program's own.
    return 10 * (STEPS_AHEAD * workers + 2) + 8 * workers + 256


def find_caches(device_type: str) -> Iterator[Finding]:
    """Yield, for each cache, whether it can be written; without one the same work is done again in each process."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - where there is no home, it stays ~ instead of an error
    package = Path(__file__).parent.parent
    caches = [("folder scans", "XDG_CACHE_HOME", [home / ".cache"], "folders are scanned again")]
    numba = [package / "kernels" / "__pycache__", home / ".cache" / "numba"]
    caches.append(("numba's machine code", "NUMBA_CACHE_DIR", numba, "it is compiled again"))
    if device_type == "cuda":
        caches.append(("Triton's machine code", "TRITON_CACHE_DIR", [home / ".triton"], "kernels can't be compiled"))
    temporary = Path(os.environ.get("TMPDIR", "/tmp"))
    caches.append(("torch.compile", "TORCHINDUCTOR_CACHE_DIR", [temporary], "nothing can be compiled"))
    for name, variable, defaults, otherwise in caches:
        folders = [Path(given)] if (given := os.environ.get(variable)) else defaults
        writable = next((folder for folder in folders if _is_writable(folder)), None)
        if writable:
            yield Finding("ok", f"Cache of {name}: {writable}")
        else:
            advice = f"set {variable} to a writable folder, or {otherwise}"
            yield Finding("missing", f"Cache of {name}: {folders[-1]} can't be written", advice)


def find_disk(folder: Path, checkpoint_bytes: int, keep: int) -> Finding:
    """Compare the free space at `folder` with `keep` checkpoints and the one that is being written."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, (keep + 1) * checkpoint_bytes
    what = (
        f"Disk at {there}: {free / 2**30:.1f} GiB free; {keep + 1} checkpoints of {checkpoint_bytes / 2**20:,.0f} MiB"
        f" need {needed / 2**30:.1f} GiB"
    )
    return Finding("ok", what) if free >= needed else Finding("problem", what, "give a folder on a larger disk")


def require(finding: Finding) -> None:
    """Raise UsageError for a problem."""
    if finding.state == "problem":
        raise UsageError(f"{finding.what}; {finding.advice}.")


def warn_of(finding: Finding) -> None:
    """Warn of a problem, with which a run may end well."""
    if finding.state == "problem":
        warnings.warn(f"{finding.what}; {finding.advice}.", stacklevel=2)


def _is_writable(folder: Path) -> bool:
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    return there is not None and there.is_dir() and os.access(there, os.W_OK | os.X_OK)
