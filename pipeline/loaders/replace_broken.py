"""Broken images of a step: raise their error, or replace each by the next good sample."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.plan import CropPlan

_MOST_IN_A_ROW = 100
"""Most broken neighbours that are skipped; if there are more, the set is damaged, not an image."""

Rows = npt.NDArray[np.int64]


def crop_good_samples(
    plan: CropPlan,
    epoch: int,
    index: npt.NDArray[np.int64],
    draws: Draws[np.ndarray],
    rows: Rows,
    crop: Callable[[Rows], dict[int, ImageError]],
) -> int:
    """Crop some rows of a step, and return how many of them were replaced.

    `crop(rows)` crops what `index` and `draws` contain for these rows, and returns the error of each row whose image
    is broken. If `plan.on_broken` is `error`, the first of these is raised. If it is `replace`, the row gets the next
    good sample of the source, with that sample's own draws: `index` and `draws` are changed in place. It is the same
    sample on every backend, for any batch size, rank and number of workers.

    Raises ImageError naming the image.
    """
    replaced: set[int] = set()
    most = min(_MOST_IN_A_ROW, len(plan.source))
    for skipped in range(most + 1):
        broken = crop(rows)
        if not broken:
            return len(replaced)
        first = broken[min(broken)]
        if plan.on_broken == "error":
            raise first
        if skipped == most:
            raise ImageError(f"{first}; the {most} images before it are broken as well, so none can replace them")
        replaced.update(broken)
        rows = np.array(sorted(broken), dtype=np.int64)
        index[rows] = (index[rows] + 1) % len(plan.source)
        for part, fresh in zip(draws, plan.draws(epoch, index[rows]), strict=True):
            part[rows] = fresh
    raise AssertionError("the loop ends by return or raise")
