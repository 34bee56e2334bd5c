"""Seed, epoch, step and rank → which samples: the epoch's permutation and each rank's share of a global batch."""

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.philox import philox

# The word of the counter that holds the view in `draw`; no run has this many views, so the streams never meet.
_ORDER_STREAM = 0xFFFFFFFF


def epoch_order(count: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of one epoch: a uniformly random permutation of 0 … count − 1, int64 (count,).

    Sorting by 64 random bits a sample: two equal keys, settled by index, are expected less than once in ten million
    epochs of ImageNet.
    """
    high, low, _, _ = philox(seed, np.arange(count), epoch, _ORDER_STREAM, 0)
    return np.argsort((high.astype(np.uint64) << np.uint64(32)) | low, kind="stable").astype(np.int64)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of whole global batches in an epoch; the last partial one is dropped, as in the reference."""
    return count // batch_size


def step_indices(
    order: npt.NDArray[np.int64], step: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> npt.NDArray[np.int64]:
    """Return this rank's contiguous share of global batch `step`, int64 (batch_size / world_size,).

    The global batch is the same for every world size; the shares of its ranks are disjoint and complete.
    """
    share = batch_size // world_size
    first = step * batch_size + rank * share
    return order[first : first + share]
