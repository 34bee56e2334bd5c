"""Samples of a step and a way to crop them → their crops, or those of the next good samples where some are broken."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.augmentation import Draws
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.plan import CropPlan

_MOST_IN_A_ROW = 100
"""Broken neighbours that are passed over; where there are more, it is the set that is damaged, not an image."""

Rows = npt.NDArray[np.int64]


def crop_good_samples(
    plan: CropPlan,
    epoch: int,
    index: npt.NDArray[np.int64],
    draws: Draws[np.ndarray],
    rows: Rows,
    crop: Callable[[Rows], dict[int, ImageError]],
) -> int:
    """Crop the samples `index[rows]`, and return how many of them had to be replaced.

    `crop(rows)` takes the crops that `index` and `draws` ask for in these rows, and returns an error for each row
    whose image is broken. The first of them is raised, unless `plan.on_broken` is `replace`. Then the row goes to the
    next sample of the source that is good, with that sample's own draws, and `index` and `draws` are changed to say
    so. It is the same sample on every backend, whatever the batch size, the rank and the number of workers.

    Raises ImageError naming the image.
    """
    replaced: set[int] = set()
    most = min(_MOST_IN_A_ROW, len(plan.source))
    for passed_over in range(most + 1):
        broken = crop(rows)
        if not broken:
            return len(replaced)
        first = broken[min(broken)]
        if plan.on_broken == "error":
            raise first
        if passed_over == most:
            raise ImageError(f"{first}; the {most} images before it are broken as well, so none can take their place")
        replaced.update(broken)
        rows = np.array(sorted(broken), dtype=np.int64)
        index[rows] = (index[rows] + 1) % len(plan.source)
        for part, fresh in zip(draws, plan.draws(epoch, index[rows]), strict=True):
            part[rows] = fresh
    raise AssertionError("the loop ends by return or raise")
