import numpy as np
import pytest

from simsiam.pipeline.philox import philox, uniform

ONES = 0xFFFFFFFF
# Random123's published known answers for philox4x32 with ten rounds: counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_known_answers(counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]) -> None:
    assert tuple(int(word) for word in philox(key[0] | key[1] << 32, *counter)) == words


def test_counters_are_broadcast() -> None:
    together = philox(7, np.arange(3)[:, None], 5, np.arange(2)[None, :], 1)
    assert all(words.shape == (3, 2) and words.dtype == np.uint32 for words in together)
    alone = philox(7, 2, 5, 1, 1)
    assert [int(words[2, 1]) for words in together] == [int(word) for word in alone]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed {seed} is out of range"):
        philox(seed, 0, 0, 0, 0)


def test_uniform_numbers_are_from_zero_to_below_one() -> None:
    ends = uniform(np.array([0, 1 << 31, ONES], dtype=np.uint32))
    np.testing.assert_array_equal(ends, [0.0, 0.5, 1 - 2.0**-32])
