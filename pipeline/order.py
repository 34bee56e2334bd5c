"""Seed, epoch, step and rank → which samples: the epoch's permutation and each rank's share of a global batch."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.philox import philox

Order = Literal["random", "block"]

BLOCK_IMAGES = 64
"""Samples of a block, which lie side by side in the file: 4 MB of ImageNet at a longer side of 500 pixels."""
WINDOW_BLOCKS = 256
"""Blocks that are shuffled together at most: 16,384 samples, or 1 GB of such images."""

# The word of the counter that holds the view in `draw`; no run has this many views, so the streams never meet.
_ORDER_STREAM = 0xFFFFFFFF
_SAMPLES, _BLOCKS = 0, 1  # the fourth word: what is shuffled


def epoch_order(count: int, seed: int, epoch: int, order: Order = "random") -> npt.NDArray[np.int64]:
    """Return the order of one epoch: a permutation of 0 … count − 1, int64 (count,).

    `random` is a uniformly random permutation. `block` is for a file larger than memory, read once an epoch in whole
    pieces: blocks of `BLOCK_IMAGES` neighbours are shuffled, and then the samples within each window of up to
    `WINDOW_BLOCKS` blocks. How random that is: a set of one window is shuffled uniformly. In a larger one a sample
    still comes anywhere in the epoch, but neighbours in the file stay within one window. So a batch is drawn from 256
    blocks: one of 256 images holds about 163 of them, where `random` finds 254 on ImageNet. If the file is sorted by
    class, that makes 152 of the 1,000 classes in a batch of 256, where `random` has 227 (means of 200 simulated ones).
    """
    if order == "random":
        return _shuffle(count, seed, epoch, _SAMPLES)
    starts = _shuffle(-(-count // BLOCK_IMAGES), seed, epoch, _BLOCKS) * BLOCK_IMAGES
    samples = (starts[:, None] + np.arange(BLOCK_IMAGES)).ravel()
    samples = samples[samples < count]  # the last block is a partial one
    window = np.arange(count) // window_images(count)
    return samples[np.lexsort((_keys(count, seed, epoch, _SAMPLES), window))]


def window_images(count: int) -> int:
    """Return the samples of a window in block order: as many in each, so that the last one mixes no less."""
    windows = -(-count // (BLOCK_IMAGES * WINDOW_BLOCKS))
    return -(-count // windows)


def reading_order(samples: npt.NDArray[np.int64], window: int) -> npt.NDArray[np.int64]:
    """Sort each run of `window` samples by their place in the file, int64 like `samples`.

    This is the order to read ahead in: what `epoch_order` mixed within a window comes back as whole blocks.
    """
    whole = len(samples) // window * window
    return np.concatenate([np.sort(samples[:whole].reshape(-1, window), axis=1).ravel(), np.sort(samples[whole:])])


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


def _shuffle(count: int, seed: int, epoch: int, what: int) -> npt.NDArray[np.int64]:
    return np.argsort(_keys(count, seed, epoch, what), kind="stable").astype(np.int64)


def _keys(count: int, seed: int, epoch: int, what: int) -> npt.NDArray[np.uint64]:
    """Return random keys to sort by.

    They have 64 bits: two equal ones, settled by index, are expected less than once in ten million epochs of ImageNet.
    """
    high, low, _, _ = philox(seed, np.arange(count), epoch, _ORDER_STREAM, what)
    return (high.astype(np.uint64) << np.uint64(32)) | low
