"""Order of an epoch: the permutation of the samples that seed and epoch give, and each rank's share of a batch."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.philox import philox

Order = Literal["random", "block"]

BLOCK_IMAGES = 64
"""Samples in a block, neighbours in the file: 4 MB of ImageNet at a longer side of 500 pixels."""
WINDOW_BLOCKS = 256
"""Blocks shuffled together, at most: 16,384 samples, or 1 GB of such images."""

# Value of the counter's third word, which is the view in `draw`: no run has so many views, so the streams differ.
_ORDER_STREAM = 0xFFFFFFFF
_SAMPLES, _BLOCKS = 0, 1  # values of the fourth word: what is shuffled


def epoch_order(count: int, seed: int, epoch: int, order: Order = "random") -> npt.NDArray[np.int64]:
    """Return the order of one epoch: a permutation of 0 … count − 1, int64 (count,).

    `random` is a uniformly random permutation. `block` is for a file larger than memory, which it reads nearly in
    sequence: blocks of `BLOCK_IMAGES` neighbours are shuffled, then the samples within each window of up to
    `WINDOW_BLOCKS` blocks. A set that fits one window is shuffled uniformly. In a larger one, a sample may still come
    anywhere in the epoch, but neighbours in the file stay within one window, so a batch is drawn from 256 blocks: one
    of 256 images holds samples of about 163 blocks, against 254 with `random` on ImageNet. If the file is sorted by
    class, these are 152 of the 1,000 classes, against 227 with `random` (means of 200 simulated batches).
    """
    if order == "random":
        return _shuffle(count, seed, epoch, _SAMPLES)
    starts = _shuffle(-(-count // BLOCK_IMAGES), seed, epoch, _BLOCKS) * BLOCK_IMAGES
    samples = (starts[:, None] + np.arange(BLOCK_IMAGES)).ravel()
    samples = samples[samples < count]  # the last block is a partial one
    window = np.arange(count) // window_images(count)
    return samples[np.lexsort((_keys(count, seed, epoch, _SAMPLES), window))]


def window_images(count: int) -> int:
    """Return the number of samples in a window of block order: nearly the same in each, so that the last mixes well."""
    windows = -(-count // (BLOCK_IMAGES * WINDOW_BLOCKS))
    return -(-count // windows)


def reading_order(samples: npt.NDArray[np.int64], window: int) -> npt.NDArray[np.int64]:
    """Return the samples, int64 like `samples`, with each run of `window` of them sorted by position in the file.

    This is the order to read ahead in: it puts back together the blocks that `epoch_order` mixed within a window.
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

    They have 64 bits: two equal ones, decided by index, are expected less than once in ten million epochs of ImageNet.
    """
    high, low, _, _ = philox(seed, np.arange(count), epoch, _ORDER_STREAM, what)
    return (high.astype(np.uint64) << np.uint64(32)) | low
