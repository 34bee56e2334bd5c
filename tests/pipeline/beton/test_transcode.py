import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from simsiam.pipeline.beton.transcode import CLIPPED, SCALED, Transcoding, transcode
from simsiam.pipeline.decode import decode_image, decode_reduced
from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.one_colour import ONE_COLOUR
from tests.pipeline.images import encoded, noise, raw_tiff, with_chunk, with_orientation


def smooth(height: int, width: int) -> np.ndarray:
    return np.array(Image.fromarray(noise(4, 4, 3, seed=1)).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    return encoded(Image.fromarray(pixels).convert(mode), kind, **options)


def test_a_usual_jpeg_is_copied_up_to_its_end_marker():
    data = jpeg(smooth(40, 60), quality=97, comment=b"kept")
    assert transcode(data + b"appended", "a", Transcoding()) == (data, 40, 60, True, ())


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({"progressive": True}, Transcoding()),
        ({"mode": "L"}, Transcoding()),
        ({"mode": "CMYK"}, Transcoding()),
        ({"keep_rgb": True}, Transcoding()),
        ({"kind": "PNG"}, Transcoding()),
        ({}, Transcoding(reencode=True)),
    ],
    ids=str,
)
def test_everything_else_becomes_a_baseline_jpeg_of_the_same_pixels(options, how):
    data = jpeg(smooth(40, 60), **options)
    result, height, width, copied, _ = transcode(data, "a", how)
    assert (height, width, copied) == (40, 60, False)
    assert result != data
    with Image.open(io.BytesIO(result)) as image:
        assert (image.format, image.mode, "progressive" in image.info) == ("JPEG", "RGB", False)
    assert np.abs(decode_image(result, "").astype(int) - decode_image(data, "")).mean() < 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_each_orientation_gives_the_pixels_pillow_gives(turn):
    data = jpeg(smooth(40, 60), exif=with_orientation(turn), quality=95)
    result, height, width, copied, _ = transcode(data, "a", Transcoding(apply_orientation=True, quality=95))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert (height, width, copied) == (*expected.shape[:2], turn == 1)
    assert np.abs(decode_image(result, "").astype(int) - expected).mean() < 2
    assert (result == data) == (turn == 1)


@pytest.mark.parametrize("side", [700, 1100, 2300])
def test_reducing_agrees_with_an_antialiased_reduction_of_all_pixels(side):
    pixels = smooth(side // 2, side)
    result, height, width, copied, _ = transcode(jpeg(pixels, quality=95), "a", Transcoding())
    assert (height, width, copied) == (250, 500, False)
    expected = np.array(Image.fromarray(pixels).resize((500, 250), Image.Resampling.LANCZOS))
    assert np.abs(decode_image(result, "").astype(int) - expected).mean() < 2


def test_pixels_are_the_reference_decoders_bit_for_bit():
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        data = jpeg(smooth(45, 61), subsampling=subsampling)
        pixels = decode_reduced(data, 45, 61)
        assert pixels is not None
        np.testing.assert_array_equal(pixels[:, :, :3], decode_image(data, ""))


def damaged() -> bytes:
    """A JPEG with all of its markers, but without the second half of its scan."""
    data = jpeg(noise(64, 64, 3), quality=90)
    return data[: len(data) // 2] + data[-2:]


def test_damage_that_leaves_the_markers_intact_is_found_by_a_full_check_only():
    data = damaged()
    assert transcode(data, "a", Transcoding()).jpeg == data
    for how in (Transcoding(check="full"), Transcoding(reencode=True), Transcoding(max_side=30)):
        with pytest.raises(ImageError, match="a: some of its pixels may be wrong: Corrupt JPEG data"):
            transcode(data, "a", how)


def test_an_early_end_marker_is_found() -> None:
    data = jpeg(noise(64, 64, 3), quality=90)
    data = data[: len(data) // 2] + b"\xff\xd9" + data[len(data) // 2 :]
    with pytest.raises(ImageError, match="a: some of its pixels may be wrong"):
        transcode(data, "a", Transcoding())


@pytest.mark.parametrize("kept", [0, 2, 100, 0.5, 0.99])
@pytest.mark.parametrize("how", [Transcoding(), Transcoding(reencode=True), Transcoding(max_side=30)], ids=str)
def test_a_truncated_jpeg_is_never_copied_or_encoded(kept, how):
    data = jpeg(noise(64, 64, 3))
    length = kept if isinstance(kept, int) else int(kept * len(data))
    with pytest.raises(ImageError):
        transcode(data[:length], "a", how)
    with pytest.raises(ImageError):
        decode_image(data[:length], "a")


def test_a_bomb_is_refused_and_the_limit_named(monkeypatch):
    data = jpeg(smooth(40, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for attempt in (lambda: transcode(data, "a", Transcoding()), lambda: decode_image(data, "a")):
        with pytest.raises(ImageError, match="2000"):
            attempt()


@pytest.mark.parametrize(
    "options",
    [{"max_side": 0}, {"quality": 0}, {"quality": 101}, {"intensity": (7, 7)}, {"intensity": (0, float("nan"))}],
)
def test_refuses_bad_settings(options):
    with pytest.raises(UsageError, match=str(next(iter(options.values()))).strip("()").rpartition(", ")[2]):
        Transcoding(**options)


DEEP = raw_tiff(np.linspace(0, 4095, 64 * 64).reshape(64, 64, 1).astype(np.uint16))


def test_deep_samples_need_a_range_which_is_remarked():
    with pytest.raises(ImageError, match="16 bits, Pillow's mode I;16, values 0 to 4095"):
        transcode(DEEP, "a", Transcoding())
    result = transcode(DEEP, "a", Transcoding(intensity=(0, 4095)))
    expected = np.linspace(0, 255, 64 * 64).reshape(64, 64, 1)
    assert np.abs(decode_image(result.jpeg, "").astype(int) - expected).mean() < 2
    assert result.remarks == (SCALED,)
    assert transcode(DEEP, "a", Transcoding(intensity=(0, 2000))).remarks == (SCALED, CLIPPED)
    assert transcode(DEEP, "a", Transcoding(intensity=(5000, 9000))).remarks == (ONE_COLOUR, SCALED, CLIPPED)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (40, 60), (300, 500)])
@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"quality": 100}, {"mode": "L"}, {"kind": "PNG"}, {"optimize": True}]
)
@pytest.mark.parametrize(
    "how", [Transcoding(), Transcoding(reencode=True), Transcoding(max_side=30), Transcoding(check="full")]
)
def test_an_image_of_one_colour_is_remarked_whether_it_is_copied_or_encoded(size, options, how):
    data = jpeg(np.full((*size, 3), (200, 30, 77), np.uint8), **options)
    assert transcode(data, "a", how).remarks == (ONE_COLOUR,)
    if size != (1, 1):
        other = jpeg(np.array(Image.linear_gradient("L").resize(size[::-1])), **options)
        assert transcode(other, "a", how).remarks == ()


def test_a_long_copied_jpeg_is_not_decoded_to_find_its_colour(monkeypatch):
    data = jpeg(noise(64, 64, 3), quality=90)
    monkeypatch.setattr("simsiam.pipeline.beton.transcode.decode_image", lambda *_: pytest.fail("decoded"))
    assert transcode(data, "a", Transcoding()).copied


def test_orientation_is_found_beside_a_text_that_pillow_refuses():
    data = encoded(smooth(40, 60), "PNG", exif=with_orientation(6))
    data = with_chunk(data, b"tEXt", b"k\0" + bytes(2 << 20))
    assert transcode(data, "a", Transcoding(apply_orientation=True))[1:3] == (60, 40)
