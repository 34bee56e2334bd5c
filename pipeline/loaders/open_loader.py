"""A plan and a device → uint8 crops on the device, step by step: the interface of every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from simsiam.pipeline.crops import BACKENDS, Backend, CropLoader
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.plan import CropPlan

if TYPE_CHECKING:  # the command line reads the backends' names from here, and must not pay for importing torch
    import torch


# The resident backend crops by dense matrix products, whose cost grows with the image's side.
_SMALL_SIDE = 128


def choose_backend(plan: CropPlan, device: torch.device) -> tuple[Backend, str]:
    """Return the backend that `auto` stands for, and why, in words for the user.

    A package counts as there when Python finds it; if it can't be loaded, opening the backend says so.
    """
    from simsiam.pipeline.beton.reader import Beton
    from simsiam.pipeline.loaders.resident_loader import RESIDENT_LIMIT_BYTES, resident_bytes

    needed, largest_side = resident_bytes(plan.source), int(plan.source.sizes.max())
    if needed <= RESIDENT_LIMIT_BYTES and largest_side <= _SMALL_SIDE:
        return "resident", f"all {len(plan.source):,} decoded images take only {needed / 2**20:.0f} MiB"
    if isinstance(plan.source, Beton):
        if find_spec("ffcv"):
            return "ffcv", "the images are in a .beton file"
        return "torch", "the .beton file needs the package ffcv to be read faster"
    if device.type == "cuda" and find_spec("nvidia") and find_spec("nvidia.dali"):
        return "dali", "the GPU can decode the files"
    return "torch", "it reads any image file on any machine; from a .beton file, ffcv reads several times as fast"


def check_backend(backend: Backend, plan: CropPlan) -> None:
    """Raise UsageError when a backend's package is missing, or when it can't read the plan's source; opens nothing."""
    if backend != "auto":
        _loader_class(backend).check(plan)


def open_loader(
    backend: Backend,
    plan: CropPlan,
    device: torch.device,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
    hw_decoder_load: float = 0.65,
) -> CropLoader:
    """Open a backend by name; see `choose_backend` for what `auto` picks.

    `workers` are processes of the torch backend (0: none but this one), threads of ffcv and dali (at least one).
    `progress` is called with (done, total) images by a backend that reads them all first. `hw_decoder_load` is the
    share of the JPEGs that dali gives to a GPU's hardware decoder.

    Raises UsageError when the backend's package is missing or can't be loaded, naming it, or when it can't read the
    plan's source.
    """
    if backend == "auto":
        backend, _ = choose_backend(plan, device)
    loader = _loader_class(backend)
    loader.check(plan)
    options = {
        "torch": (workers,),
        "ffcv": (workers,),
        "dali": (workers, hw_decoder_load),
        "resident": (progress,),
        "synthetic": (),
    }
    return loader(plan, device, *options[backend])


def _loader_class(backend: Backend) -> Any:
    # Each backend is imported only when asked for, so that none needs another's packages.
    if backend == "torch":
        from simsiam.pipeline.loaders.torch_loader import TorchLoader

        return TorchLoader
    if backend == "ffcv":
        with _explained(backend, "ffcv", "ffcv==1.0.2"):
            from simsiam.pipeline.loaders.ffcv_loader import FfcvLoader
        return FfcvLoader
    if backend == "dali":
        with _explained(backend, "nvidia-dali-cuda130", "nvidia-dali-cuda130"):
            from simsiam.pipeline.loaders.dali_loader import DaliLoader
        return DaliLoader
    if backend == "resident":
        from simsiam.pipeline.loaders.resident_loader import ResidentLoader

        return ResidentLoader
    if backend == "synthetic":
        from simsiam.pipeline.loaders.synthetic_loader import SyntheticLoader

        return SyntheticLoader
    raise UsageError(f"There is no loader backend {backend!r}; choose one of {', '.join(BACKENDS)}.")


@contextmanager
def _explained(backend: str, package: str, pinned: str) -> Iterator[None]:
    """Turn the failure to import a backend's package into one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The {backend} backend needs the package {package}, which isn't installed ({error}): pip install"
            f" {pinned}, or use the torch backend."
        ) from None
    except (ImportError, OSError) as error:  # a library that it needs is missing, or of another version
        raise UsageError(
            f"The package {package} of the {backend} backend can't be loaded: {error}. Install it anew, or use the"
            " torch backend."
        ) from None
