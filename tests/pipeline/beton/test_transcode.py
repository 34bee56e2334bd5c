import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from simsiam.pipeline.beton.transcode import Transcoding, transcode
from simsiam.pipeline.decode import decode_image, decode_reduced
from simsiam.pipeline.errors import ImageError, UsageError
from tests.pipeline.images import encoded, noise, with_orientation


def smooth(height: int, width: int) -> np.ndarray:
    return np.array(Image.fromarray(noise(4, 4, 3, seed=1)).resize((width, height), Image.Resampling.BICUBIC))


def jpeg(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    return encoded(Image.fromarray(pixels).convert(mode), kind, **options)


def test_a_usual_jpeg_is_copied_up_to_its_end_marker():
    data = jpeg(smooth(40, 60), quality=97, comment=b"kept")
    assert transcode(data + b"appended", "a", Transcoding()) == (data, 40, 60, True)


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
    result, height, width, copied = transcode(data, "a", how)
    assert (height, width, copied) == (40, 60, False)
    assert result != data
    with Image.open(io.BytesIO(result)) as image:
        assert (image.format, image.mode, "progressive" in image.info) == ("JPEG", "RGB", False)
    assert np.abs(decode_image(result, "").astype(int) - decode_image(data, "")).mean() < 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_each_orientation_gives_the_pixels_pillow_gives(turn):
    data = jpeg(smooth(40, 60), exif=with_orientation(turn), quality=95)
    result, height, width, copied = transcode(data, "a", Transcoding(apply_orientation=True, quality=95))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert (height, width, copied) == (*expected.shape[:2], turn == 1)
    assert np.abs(decode_image(result, "").astype(int) - expected).mean() < 2
    assert (result == data) == (turn == 1)


@pytest.mark.parametrize("side", [700, 1100, 2300])
def test_reducing_agrees_with_an_antialiased_reduction_of_all_pixels(side):
    pixels = smooth(side // 2, side)
    result, height, width, copied = transcode(jpeg(pixels, quality=95), "a", Transcoding())
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


@pytest.mark.parametrize("options", [{"max_side": 0}, {"quality": 0}, {"quality": 101}])
def test_refuses_bad_settings(options):
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        Transcoding(**options)
