"""Memory of training: advice after running out of memory, and a malloc that keeps freed memory."""

import ctypes
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from simsiam.model.activation_checkpointing import is_recomputed
from simsiam.pipeline.errors import RunError

_USABLE = 0.9  # of the memory; the allocator's rounding and gaps take the rest


@contextmanager
def explain_out_of_memory(model: nn.Module, batch_size: int, world_size: int = 1) -> Iterator[None]:
    """Raise RunError with an estimate if the block runs out of memory; `batch_size` is the global one."""
    try:
        yield
    except torch.OutOfMemoryError:
        device = _device_of(model)
        if device.type != "cuda":
            raise
        peak, total = torch.cuda.max_memory_allocated(device), torch.cuda.mem_get_info(device)[1]
        fits = batch_that_fits(batch_size, peak, _weights_and_more(model), total, world_size)
        raise RunError(
            f"The GPU's {total / 2**30:.0f} GiB are too small for a batch of {batch_size}, which reached"
            f" {peak / 2**30:.1f} GiB before it failed. {_advice(fits, model)}",
            argument="batch_size" if fits else None,
        ) from None
    except (MemoryError, RuntimeError) as error:
        asked = _bytes_asked_for(error)
        if asked is None:
            raise
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + asked
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        fits = batch_that_fits(batch_size, peak, _weights_and_more(model), total, world_size)
        raise RunError(
            f"This machine's {total / 2**30:.0f} GiB are too small for a batch of {batch_size}, which asked for"
            f" {peak / 2**30:.1f} GiB before it failed. {_advice(fits, model)}",
            argument="batch_size" if fits else None,
        ) from None


def _bytes_asked_for(error: MemoryError | RuntimeError) -> int | None:
    """Return the bytes of a failed allocation on a CPU, by its message; None for another error."""
    # PyTorch has no exception class for it.
    if found := re.search(r"DefaultCPUAllocator: .* allocate (\d+) bytes", str(error)):
        return int(found[1])
    if found := re.search(r"Unable to allocate ([\d.]+) ([KMGTPE]?)i?B", str(error)):  # NumPy's
        return int(float(found[1]) * 1024 ** " KMGTPE".index(found[2] or " "))
    return 0 if isinstance(error, MemoryError) else None


def _weights_and_more(model: nn.Module) -> int:
    """Return the bytes of weights, gradients and momenta, which are independent of the batch."""
    return 3 * sum(tensor.nbytes for tensor in model.state_dict().values())


def batch_that_fits(
    batch_size: int, peak_bytes: int, fixed_bytes: int, memory_bytes: int, world_size: int = 1
) -> int | None:
    """Estimate the largest batch for `memory_bytes` from one of `batch_size` that had `peak_bytes` when it failed.

    Assumes that all memory but `fixed_bytes` (weights, gradients, momentum) is proportional to the batch. The peak is a
    lower bound of what the batch needs, so the result is an upper bound. It is a multiple of 8 images for each of the
    `world_size` processes, or of 1 if fewer than 8 fit. None if not even 2 each fit.
    """
    per_image = max(peak_bytes - fixed_bytes, 1) / batch_size
    most = int(min((_USABLE * memory_bytes - fixed_bytes) / per_image, _USABLE * batch_size))
    for multiple in (8 * world_size, world_size):
        fits = most // multiple * multiple
        if fits >= 2 * world_size:
            return fits
    return None


def _advice(fits: int | None, model: nn.Module) -> str:
    text = "" if is_recomputed(model) else "With recompute it takes much less memory, and more time. "
    if fits is None:
        return f"{text}By an estimate from that, no smaller batch would fit: give smaller views or a smaller network."
    return (
        f"{text}By an estimate from that, a batch of {fits} would fit; the step was not complete, so if it does not,"
        " halve it."
    )


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


# malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Make malloc keep and reuse freed memory of any size, for the rest of the process.

    By default malloc takes blocks above 32 MiB from the system and returns them each time. Every step then writes to
    new pages, which the system must first fill with zeros: 27,000 page faults a step of ResNet-18 on 64 images of 64
    px, 7 to 9 % of its time (2-core Xeon VM). The process never shrinks below its peak. Does nothing unless the C
    library is GNU's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
