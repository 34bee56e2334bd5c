from typing import Any

import pytest
from PIL import Image

from simsiam.pipeline.jpeg import BASELINE, PROGRESSIVE, read_jpeg_header, read_usual_jpeg
from tests.pipeline.images import encoded, noise


def jpeg(mode: str = "RGB", size: tuple[int, int] = (60, 40), **options: Any) -> bytes:
    return encoded(Image.fromarray(noise(size[1], size[0], 3)).convert(mode), **options)


def found(data: bytes) -> tuple[int, int, bool, int]:
    usual = read_usual_jpeg(data)
    assert usual is not None
    assert data[usual.scan_start - 3] == 0  # the scan header ends with the first coefficient
    return usual[:4]


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("restart", [0, 2])
def test_a_baseline_jpeg_is_whole_up_to_its_end_marker(subsampling, restart):
    data = jpeg(subsampling=subsampling, restart_marker_blocks=restart)
    assert found(data) == (40, 60, True, len(data))
    assert found(data + b"of the camera \xff\xd9") == (40, 60, True, len(data))


def test_metadata_and_padding_are_skipped():
    thumbnail = jpeg(size=(8, 8))
    data = jpeg(exif=b"Exif\0\0" + thumbnail, comment=b"\xff\xd9")
    data = data[:2] + b"\xff" + data[2:-2] + b"\xff" + data[-2:]
    assert found(data) == (40, 60, True, len(data))


def test_a_progressive_jpeg_is_usual_but_no_baseline():
    assert found(jpeg(progressive=True)) == (40, 60, False, 0)


@pytest.mark.parametrize("options", [{"mode": "L"}, {"mode": "CMYK"}, {"keep_rgb": True}], ids=str)
def test_other_colours_are_not_usual(options):
    assert read_usual_jpeg(jpeg(**options)) is None


def test_the_adobe_segment_decides_on_the_colour_space():
    data = jpeg()
    start = data.index(b"\xff\xdb")
    for transform, usual in ((0, False), (1, True), (2, False)):
        adobe = b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
        assert (read_usual_jpeg(data[:start] + adobe + data[start:]) is not None) == usual


def test_twelve_bits_a_sampling_of_four_and_no_height_are_not_usual():
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    for offset, value in ((4, 12), (11, 0x41), (9, 4)):
        assert read_usual_jpeg(data[: frame + offset] + bytes([value]) + data[frame + offset + 1 :]) is None
    assert read_usual_jpeg(data[: frame + 5] + b"\0\0" + data[frame + 7 :]) is None


@pytest.mark.parametrize("restart", [0, 2])
def test_a_jpeg_truncated_anywhere_is_never_whole(restart):
    data = jpeg(restart_marker_blocks=restart)
    for length in range(len(data)):
        found = read_usual_jpeg(data[:length])
        assert found is None or not found.whole_baseline


def test_a_lost_restart_and_a_foreign_marker_in_the_scan_are_noticed():
    data = jpeg(restart_marker_blocks=2)
    first, second = data.index(b"\xff\xd0"), data.index(b"\xff\xd1")
    assert found(data[:first] + data[second:]) == (40, 60, False, 0)
    middle = len(data) - 100
    assert found(data[:middle] + b"\xff\xc4" + data[middle:]) == (40, 60, False, 0)


def test_the_header_of_any_jpeg_is_read():
    header = read_jpeg_header(jpeg(mode="CMYK", progressive=True))
    assert header is not None
    assert (header.process, header.precision, header.height, header.width) == (PROGRESSIVE, 8, 40, 60)
    assert (header.components, len(header.sampling)) == (b"CMYK", 4)
    assert (header.jfif_version, header.adobe_transform) == (None, 0)
    plain = read_jpeg_header(jpeg(subsampling="4:2:0"))
    assert plain is not None
    assert (plain.process, plain.components, plain.sampling) == (BASELINE, b"\1\2\3", b"\x22\x11\x11")
    assert (plain.jfif_version, plain.adobe_transform) == (1, None)


def test_a_second_frame_is_refused():
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    assert read_jpeg_header(data[:frame] + data[frame : frame + 19] + data[frame:]) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"GIF89a", b"\xff\xd8\xff\xd9", b"\xff" * 100], ids=repr)
def test_what_is_no_jpeg_is_none(data):
    assert read_usual_jpeg(data) is read_jpeg_header(data) is None


def test_headers_that_decoders_warn_of_are_not_usual():
    data = jpeg()
    version = data.index(b"JFIF\0") + 5
    assert read_usual_jpeg(data[:version] + b"\2" + data[version + 1 :]) is None
    last_coefficient = data.index(b"\xff\xda") + 12
    assert data[last_coefficient] == 63
    assert found(data[:last_coefficient] + b"\5" + data[last_coefficient + 1 :]) == (40, 60, False, 0)
