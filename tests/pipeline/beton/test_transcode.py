import io

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton.transcode import Transcoding, transcode
from simsiam.pipeline.decode import decode_image, decode_reduced
from simsiam.pipeline.errors import ImageError, UsageError


def smooth(height: int, width: int) -> np.ndarray:
    patches = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    return np.array(Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str = "JPEG", mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, **options)
    return file.getvalue()


def test_a_usual_jpeg_is_copied_without_what_follows_its_end():
    data = encoded(smooth(40, 60), quality=97, comment=b"kept")
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
    data = encoded(smooth(40, 60), **options)
    jpeg, height, width, copied = transcode(data, "a", how)
    assert (height, width, copied) == (40, 60, False)
    assert jpeg != data
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.mode, "progressive" in image.info) == ("JPEG", "RGB", False)
    assert np.abs(decode_image(jpeg, "").astype(int) - decode_image(data, "")).mean() < 4


@pytest.mark.parametrize("turn", range(1, 9))
def test_each_orientation_gives_the_pixels_pillow_gives(turn):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(smooth(40, 60), exif=exif, quality=95)
    jpeg, height, width, copied = transcode(data, "a", Transcoding(apply_orientation=True, quality=95))
    with Image.open(io.BytesIO(data)) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    assert (height, width, copied) == (*expected.shape[:2], turn == 1)
    assert np.abs(decode_image(jpeg, "").astype(int) - expected).mean() < 2
    assert (jpeg == data) == (turn == 1)


@pytest.mark.parametrize("side", [700, 1100, 2300])
def test_reducing_agrees_with_an_antialiased_reduction_of_all_pixels(side):
    pixels = smooth(side // 2, side)
    jpeg, height, width, copied = transcode(encoded(pixels, quality=95), "a", Transcoding())
    assert (height, width, copied) == (250, 500, False)
    expected = np.array(Image.fromarray(pixels).resize((500, 250), Image.Resampling.LANCZOS))
    assert np.abs(decode_image(jpeg, "").astype(int) - expected).mean() < 2


def test_decoding_is_the_reference_decoders_bit_for_bit():
    for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
        data = encoded(smooth(45, 61), subsampling=subsampling)
        pixels = decode_reduced(data, 45, 61)
        assert pixels is not None
        np.testing.assert_array_equal(pixels[:, :, :3], decode_image(data, ""))


def damaged() -> bytes:
    """A JPEG whose markers are whole, but whose scan lacks its second half."""
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), quality=90)
    return data[: len(data) // 2] + data[-2:]


def test_damaged_data_that_leaves_the_markers_whole_is_found_by_a_full_check_alone():
    data = damaged()
    assert transcode(data, "a", Transcoding()).jpeg == data
    for how in (Transcoding(check="full"), Transcoding(reencode=True), Transcoding(max_side=30)):
        with pytest.raises(ImageError, match="a: some of its pixels may be wrong: Corrupt JPEG data"):
            transcode(data, "a", how)


def test_an_end_marker_that_comes_too_early_is_found() -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), quality=90)
    data = data[: len(data) // 2] + b"\xff\xd9" + data[len(data) // 2 :]
    with pytest.raises(ImageError, match="a: some of its pixels may be wrong"):
        transcode(data, "a", Transcoding())


def test_what_follows_the_end_marker_is_not_copied() -> None:
    data = encoded(smooth(40, 60))
    assert transcode(data + b"a camera's own", "a", Transcoding()).jpeg == data


@pytest.mark.parametrize("kept", [0, 2, 100, 0.5, 0.99])
@pytest.mark.parametrize("how", [Transcoding(), Transcoding(reencode=True), Transcoding(max_side=30)], ids=str)
def test_a_truncated_jpeg_is_never_copied_or_encoded(kept, how):
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    length = kept if isinstance(kept, int) else int(kept * len(data))
    with pytest.raises(ImageError):
        transcode(data[:length], "a", how)
    with pytest.raises(ImageError):
        decode_image(data[:length], "a")


def test_a_bomb_is_refused_and_the_limit_named(monkeypatch):
    data = encoded(smooth(40, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for attempt in (lambda: transcode(data, "a", Transcoding()), lambda: decode_image(data, "a")):
        with pytest.raises(ImageError, match="2000"):
            attempt()


@pytest.mark.parametrize("options", [{"max_side": 0}, {"quality": 0}, {"quality": 101}])
def test_refuses_bad_settings(options):
    with pytest.raises(UsageError, match=str(next(iter(options.values())))):
        Transcoding(**options)
