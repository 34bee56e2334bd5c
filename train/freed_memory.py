"""Memory that a training step frees → kept by the process for the next step, instead of given back to the system."""

import ctypes

# malloc.h of the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have malloc reuse what is freed, however large, from now on.

    By default what is above 32 MiB is taken from the system each time and given back, so that each step writes to new
    pages, which the system must first fill with zeros: 27,000 page faults a step of ResNet-18 on 64 images of 64 px,
    7 to 9 % of its time (2-core Xeon VM). The process keeps the most memory that it ever used at once. Does nothing
    where the C library isn't GNU's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST)
    mallopt(_M_TRIM_THRESHOLD, _LARGEST)
