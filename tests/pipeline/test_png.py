import numpy as np
import pytest

from simsiam.pipeline.png import pixel_chunks
from tests.pipeline.images import encoded, noise, with_chunk

PNG = encoded(noise(5, 7, 3), "PNG")


def test_a_png_without_metadata_is_returned_as_it_is():
    assert pixel_chunks(PNG) is PNG


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"pHYs", b"acTL", b"fdAT", b"prVt"])
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_chunks_that_no_pixel_depends_on_are_removed(kind: bytes, before: bytes):
    assert pixel_chunks(with_chunk(with_chunk(PNG, kind, b"1", before), kind, b"2", before)) == PNG


@pytest.mark.parametrize("kind", [b"tRNS", b"eXIf", b"PLTE"])
def test_colours_transparency_and_orientation_are_kept(kind: bytes):
    data = with_chunk(PNG, kind, bytes(6))
    assert pixel_chunks(data) == data
    assert pixel_chunks(with_chunk(data, b"tEXt", b"text")) == data


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"no PNG", encoded(noise(4, 4, 3))])
def test_other_bytes_are_returned_as_they_are(data: bytes):
    assert pixel_chunks(data) is data


def test_a_truncated_png_stays_truncated():
    data = with_chunk(PNG, b"tEXt", b"text")
    for length in np.linspace(0, len(data) - 1, 40, dtype=int).tolist():
        kept = pixel_chunks(data[:length])
        assert not kept.endswith(PNG[-12:]) and (kept == data[:length] or PNG.startswith(kept))


def test_what_follows_the_end_is_kept():
    assert pixel_chunks(PNG + b"appended") == PNG + b"appended"
