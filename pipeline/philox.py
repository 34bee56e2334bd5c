"""Philox4x32-10, a counter-based random number generator, vectorised: key and counters in, 32-bit words out.

Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Such a generator has no state:
each word is a pure function of (key, counter), so nothing has to be drawn in order.
"""

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.errors import UsageError

# Multipliers and Weyl increments of Philox4x32 (the paper, section 4.3, and its reference code Random123).
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW_32 = np.uint64(0xFFFFFFFF)
_SHIFT_32 = np.uint64(32)

Words = npt.NDArray[np.uint32]


def philox(seed: int, *counter: npt.ArrayLike) -> tuple[Words, Words, Words, Words]:
    """Return the four random words of each counter.

    `seed` is the 64-bit key. `counter` are four unsigned 32-bit numbers or arrays, broadcast against each other; each
    returned uint32 array has their common shape. Raises UsageError when the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise UsageError(f"The seed {seed} is out of range; give a whole number from 0 to 2**64 − 1.")
    x0, x1, x2, x3 = (word.astype(np.uint64) for word in np.broadcast_arrays(*(np.asarray(part) for part in counter)))
    key_0, key_1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(_ROUNDS):
        product_0, product_1 = _MULTIPLIERS[0] * x0, _MULTIPLIERS[1] * x2
        x0, x1, x2, x3 = (
            (product_1 >> _SHIFT_32) ^ x1 ^ np.uint64(key_0),
            product_1 & _LOW_32,
            (product_0 >> _SHIFT_32) ^ x3 ^ np.uint64(key_1),
            product_0 & _LOW_32,
        )
        key_0, key_1 = (key_0 + _WEYL[0]) & 0xFFFFFFFF, (key_1 + _WEYL[1]) & 0xFFFFFFFF
    return x0.astype(np.uint32), x1.astype(np.uint32), x2.astype(np.uint32), x3.astype(np.uint32)


def uniform(words: Words) -> npt.NDArray[np.float64]:
    """Map random words to float64 numbers in [0, 1), in steps of 2**-32."""
    return words.astype(np.float64) * 2.0**-32
