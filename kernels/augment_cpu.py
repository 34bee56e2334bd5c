"""`augment_views` on a CPU: a few views at a time to each of PyTorch's number of threads.

Why: plain PyTorch passes over an image once per operation; this keeps a view in the caches of one core. To switch it
off, give `augment_views` the argument `implementation="reference"`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from simsiam.kernels.augment_contract import PhotometricDraws, empty_views
from simsiam.kernels.augment_cpu_rows import augment_range

# Views that a thread takes at a time: enough that taking them costs nothing, few enough that threads finish together.
_CHUNK = 8


def augment_views_cpu(
    pixels: Tensor,
    draws: PhotometricDraws[Tensor],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    blur_kernel: int,
) -> Tensor:
    """Return `augment_views` of CPU tensors; the arguments are taken as checked.

    It uses as many threads as PyTorch may (`torch.set_num_threads`), each for whole views, so the result has the same
    bits whatever their number. float32 and bfloat16 are written directly, other types are converted from float32.
    """
    views = empty_views(pixels, torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
    crops = pixels.contiguous().numpy()
    arrays = PhotometricDraws(*(draw.contiguous().numpy() for draw in draws))
    scale = (1 / np.asarray(std)).astype(np.float32)
    offset = (-np.asarray(mean) / np.asarray(std)).astype(np.float32)
    reach = min(blur_kernel // 2, pixels.shape[2] - 1)
    # NumPy has no bfloat16, so its bits are written.
    out = views.permute(0, 2, 3, 1).view(torch.uint16 if dtype == torch.bfloat16 else torch.float32).numpy()

    def augment(chunk: range) -> None:
        augment_range(chunk.start, chunk.stop, crops, arrays, scale, offset, reach, out)

    threads = torch.get_num_threads()
    step = max(1, min(_CHUNK, len(views) // (4 * threads)))
    chunks = [range(first, min(first + step, len(views))) for first in range(0, len(views), step)]
    if threads == 1 or len(chunks) <= 1:
        for chunk in chunks:
            augment(chunk)
    else:
        # Threads of this call only: none is lost when a process forks, and numba's, which FFCV uses, stay as set.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(augment, chunks))
    return views.to(dtype)
