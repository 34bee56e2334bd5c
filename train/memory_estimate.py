"""A batch that was too large for the memory → a sentence that names one that would fit."""

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from simsiam.model.recompute import is_recomputed
from simsiam.pipeline.errors import RunError

_USABLE = 0.9  # of the memory; the allocator's rounding and gaps take the rest


@contextmanager
def explain_out_of_memory(model: nn.Module, batch_size: int, world_size: int = 1) -> Iterator[None]:
    """Raise RunError with an estimate where the block runs out of memory; `batch_size` is the global one."""
    try:
        yield
    except torch.OutOfMemoryError:
        device = _device_of(model)
        if device.type != "cuda":
            raise
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        fits = batch_that_fits(batch_size, peak, _weights_and_more(model), total, multiple=8 * world_size)
        raise RunError(
            f"The GPU's {total / 2**30:.0f} GiB are too small for --batch-size {batch_size}, which reached"
            f" {peak / 2**30:.1f} GiB before it failed. An estimate from that peak: --batch-size {fits} would fit;"
            f" the step was not over, so where it does not, take half of it.{_other_way_out(model)}"
        ) from None
    except (MemoryError, RuntimeError) as error:
        asked = _bytes_asked_for(error)
        if asked is None:
            raise
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + asked
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        fits = batch_that_fits(batch_size, peak, _weights_and_more(model), total, multiple=2 * world_size)
        raise RunError(
            f"This machine's {total / 2**30:.0f} GiB are too small for --batch-size {batch_size}, which asked for"
            f" {peak / 2**30:.1f} GiB before it failed. An estimate from that: --batch-size {fits} would fit; the step"
            f" was not over, so where it does not, take half of it.{_other_way_out(model)}"
        ) from None


def _bytes_asked_for(error: MemoryError | RuntimeError) -> int | None:
    """Return what a failed allocation on a CPU asked for, by its message; None for another error."""
    # PyTorch has no kind of error of its own for it.
    if found := re.search(r"DefaultCPUAllocator: .* allocate (\d+) bytes", str(error)):
        return int(found[1])
    if found := re.search(r"Unable to allocate ([\d.]+) ([KMGTPE]?)i?B", str(error)):  # NumPy's
        return int(float(found[1]) * 1024 ** " KMGTPE".index(found[2] or " "))
    return 0 if isinstance(error, MemoryError) else None


def _weights_and_more(model: nn.Module) -> int:
    """Return the bytes of weights, gradients and momenta, which don't grow with the batch."""
    return 3 * sum(tensor.nbytes for tensor in model.state_dict().values())


def batch_that_fits(batch_size: int, peak_bytes: int, fixed_bytes: int, memory_bytes: int, multiple: int = 8) -> int:
    """Estimate the largest batch for `memory_bytes` from one of `batch_size` that had `peak_bytes` when it failed.

    All but `fixed_bytes` (weights, gradients, momentum) is taken to grow in proportion to the batch. The peak is a
    lower bound of what the batch needs, so the result is an upper one. A multiple of `multiple`, and at least that.
    """
    per_image = max(peak_bytes - fixed_bytes, 1) / batch_size
    fits = min((_USABLE * memory_bytes - fixed_bytes) / per_image, _USABLE * batch_size)
    return max(int(fits) // multiple * multiple, multiple)


def _other_way_out(model: nn.Module) -> str:
    if is_recomputed(model):
        return ""
    return " Or keep the batch and give --recompute, which takes more time and much less memory."


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
