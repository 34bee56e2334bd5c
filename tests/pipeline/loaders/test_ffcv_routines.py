import os
from pathlib import Path

import numba.core.config
import numpy as np
import pytest

pytest.importorskip("ffcv", reason="FFCV isn't installed", exc_type=ImportError)
from simsiam.pipeline.loaders import ffcv_routines
from simsiam.pipeline.loaders.ffcv_routines import Decoder, crop_records
from tests.pipeline.images import encoded, noise


def test_a_changed_resizer_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path))

    def compiled(version: int) -> bool:
        return bool(ffcv_routines._compile(version).stats.cache_misses)  # pyright: ignore[reportFunctionMemberAccess]

    assert [compiled(version) for version in (1, 1, 2)] == [True, False, True]


def test_decoders_free_their_memory() -> None:
    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    jpeg, image = np.frombuffer(encoded(noise(40, 56, 3)), np.uint8), np.empty(40 * 56 * 3, np.uint8)

    def decode_with_decoders(count: int) -> None:
        for _ in range(count):
            decoder = Decoder()
            assert ffcv_routines._is_decoded(int(decoder.handle[0]), jpeg, len(jpeg), 40, 56, image)

    decode_with_decoders(100)  # memory freed by the first ones is reused
    before = resident_bytes()
    decode_with_decoders(1500)
    assert resident_bytes() - before < 2**20  # each decoder takes 4 KiB


def test_an_image_after_one_with_a_wrong_huffman_table_is_decoded(pack, tmp_path: Path) -> None:
    """TurboJPEG 2.1.5 refuses every image from then on with the same decoder."""
    good = encoded(noise(40, 56, 3))
    source = pack(tmp_path / "images.beton", [good, good])
    with source.path.open("r+b") as file:
        file.seek(int(source.records.offsets[0]))
        file.write(good.replace(b"\xff\xc4\x00", b"\xff\xc4\xff", 1))
    index, crop = np.arange(2), np.tile(np.array([0, 0, 40, 56], np.int32), (2, 2, 1))
    pixels, record, image = (
        np.zeros((2, 2, 8, 8, 3), np.uint8),
        np.empty(9999, np.uint8),
        np.empty(40 * 56 * 3, np.uint8),
    )
    decoded = crop_records(source.file, source.records, index, index, crop, pixels, Decoder(), record, image)
    assert decoded.tolist() == [False, True]
