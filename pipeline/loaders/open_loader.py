"""Opening a backend by name, or the fastest one for a source and a device."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from simsiam.pipeline.crops import BACKENDS, Backend, CropLoader
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.progress import Progress

if TYPE_CHECKING:  # `simsiam --help` must not wait for torch
    import torch


# The resident backend crops by dense matrix products, whose cost grows with the image's side.
_SMALL_SIDE = 128


def choose_backend(plan: CropPlan, device: torch.device) -> tuple[Backend, str]:
    """Return the backend that `auto` stands for, and the reason in words for the user.

    A backend whose package is installed but can't be loaded is answered by torch, which needs no other package.
    """
    from simsiam.pipeline.beton.reader import Beton
    from simsiam.pipeline.loaders.resident_loader import RESIDENT_LIMIT_BYTES, resident_bytes

    needed, largest_side = resident_bytes(plan.source), int(plan.source.sizes.max())
    if needed <= RESIDENT_LIMIT_BYTES and largest_side <= _SMALL_SIDE:
        return "resident", f"all {len(plan.source):,} decoded images take only {needed / 2**20:.0f} MiB"
    if isinstance(plan.source, Beton):
        if not find_spec("ffcv"):
            return "torch", "the package ffcv, which reads a .beton file faster, isn't installed"
        return _unless_it_fails("ffcv", "the images are in a .beton file")
    if device.type == "cuda" and find_spec("nvidia") and find_spec("nvidia.dali"):
        return _unless_it_fails("dali", "the GPU can decode the files")
    return "torch", "it reads any image file on any machine; from a .beton file, ffcv reads several times as fast"


def _unless_it_fails(backend: Backend, reason: str) -> tuple[Backend, str]:
    try:
        _loader_class(backend)
    except Exception as error:  # a broken extension raises ImportError, OSError, AttributeError, …
        return "torch", f"the backend {backend} can't be loaded ({type(error).__name__}: {error})"
    return backend, reason


def check_backend(backend: Backend, plan: CropPlan) -> None:
    """Raise UsageError when a backend's package is missing, or when it can't read the plan's source; opens nothing."""
    if backend != "auto":
        _loader_class(backend).check(plan)


def open_loader(
    backend: Backend,
    plan: CropPlan,
    device: torch.device,
    workers: int,
    progress: Progress | None = None,
    **options: Any,
) -> CropLoader:
    """Open a backend by name; see `choose_backend` for what `auto` picks.

    Args:
        backend: Which one.
        plan: What to load.
        device: Where the crops go.
        workers: Processes of the torch backend (0: this one), threads of ffcv and dali (at least one).
        progress: Called with (done, total) images by a backend that reads them all first.
        options: What this backend alone takes, such as `hw_decoder_load` of dali; see its class.

    Raises:
        UsageError: The backend can't read the plan's source; MissingError when its package can't be imported.
    """
    if backend == "auto":
        backend, _ = choose_backend(plan, device)
    loader = _loader_class(backend)
    loader.check(plan)
    return loader(plan, device, workers, progress, **options)


def _loader_class(backend: Backend) -> type[CropLoader]:
    """Import `NameLoader` of `name_loader.py`, and no other backend, so that none needs another's packages."""
    if backend not in BACKENDS:
        raise UsageError(f"There is no loader backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
    module = importlib.import_module(f"simsiam.pipeline.loaders.{backend}_loader")
    return getattr(module, f"{backend.capitalize()}Loader")
