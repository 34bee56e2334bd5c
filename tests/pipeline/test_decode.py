import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError
from tests.pipeline.images import encoded, noise, with_orientation


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def raw_png(width: int, height: int, depth: int, color: int, data: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_rgb_is_decoded_bit_for_bit_into_writable_memory():
    pixels = noise(5, 7, 3)
    decoded = decode_image(encoded(pixels, "PNG"), "a.png")
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable and decoded.flags.c_contiguous
    assert (decoded == pixels).all()


def test_grayscale_is_repeated_in_three_channels():
    pixels = noise(5, 7)
    assert (decode_image(encoded(pixels, "PNG"), "a.png") == pixels[:, :, None]).all()


def test_one_bit_is_black_and_white():
    bits = noise(5, 9) > 127
    assert (decode_image(encoded(bits, "PNG"), "a.png") == np.where(bits, 255, 0)[:, :, None]).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_dropped_and_the_colours_are_kept(channels: int):
    pixels = noise(5, 7, channels)
    decoded = decode_image(encoded(pixels, "PNG"), "a.png")
    assert (decoded == (pixels[:, :, :3] if channels == 4 else pixels[:, :, :1])).all()


@pytest.mark.parametrize("transparency", [None, 1, bytes([0, 128, 255])])
def test_palette_gives_its_colours(transparency: int | bytes | None):
    indices = noise(5, 7) % 3
    palette = np.array([[1, 2, 3], [40, 50, 60], [255, 0, 255]], np.uint8)
    image = Image.frombytes("P", (7, 5), indices.tobytes())
    image.putpalette(palette.tobytes())
    options: dict[str, Any] = {} if transparency is None else {"transparency": transparency}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = decode_image(encoded(image, "PNG", **options), "a.png")
    assert (decoded == palette[indices]).all()


@pytest.mark.parametrize("color, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_keep_their_upper_eight(color: int, channels: int):
    samples = np.random.default_rng(0).integers(0, 65536, (4, 6, channels), np.uint16)
    samples[0, :4] = np.array([0, 255, 256, 65535], np.uint16)[:, None]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    decoded = decode_image(raw_png(6, 4, 16, color, rows), "a.png")
    assert (decoded == (samples >> 8)[:, :, : 3 if channels >= 3 else 1]).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda samples: b"P5 6 4 65535\n" + samples.astype(">u2").tobytes(),
        lambda samples: encoded(samples, "TIFF"),
    ],
)
def test_sixteen_bits_of_other_formats_keep_their_upper_eight(make: Callable[[np.ndarray], bytes]):
    samples = np.random.default_rng(0).integers(0, 65536, (4, 6), np.uint16)
    assert (decode_image(make(samples), "a") == (samples >> 8)[:, :, None]).all()


def test_cmyk_becomes_rgb():
    # Ink 0 everywhere is white; full cyan leaves green and blue; full black ink is black.
    inks = np.zeros((8, 24, 4), np.uint8)
    inks[:, 8:16, 0] = 255
    inks[:, 16:, 3] = 255
    data = encoded(Image.frombytes("CMYK", (24, 8), inks.tobytes()), "JPEG", quality=100, subsampling=0)
    decoded = decode_image(data, "a.jpg").astype(int)
    for column, expected in ((4, (255, 255, 255)), (12, (0, 255, 255)), (20, (0, 0, 0))):
        assert np.abs(decoded[:, column] - expected).max() <= 3


def test_exif_orientation_is_not_applied():
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    plain, tagged = encoded(pixels), encoded(pixels, exif=with_orientation(6))
    with Image.open(io.BytesIO(tagged)) as image:
        assert image.getexif()[0x0112] == 6
    assert (decode_image(tagged, "a.jpg") == decode_image(plain, "a.jpg")).all()
    assert decode_image(tagged, "a.jpg").shape == (16, 32, 3)


def test_a_progressive_jpeg_decodes_as_the_baseline_one():
    y, x = np.mgrid[:64, :48]
    image = Image.fromarray(np.stack([4 * y, 5 * x, y + x], axis=-1).astype(np.uint8))
    baseline, progressive = (encoded(image, "JPEG", quality=90, progressive=flag) for flag in (False, True))
    assert b"\xff\xc2" in progressive and b"\xff\xc2" not in baseline
    assert (decode_image(progressive, "a.jpg") == decode_image(baseline, "a.jpg")).all()


def test_an_animated_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 3), color) for color in ((255, 0, 0), (0, 255, 0))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(data, "a.gif") == [255, 0, 0]).all()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "PPM"])
def test_one_pixel_is_an_image(format: str):
    decoded = decode_image(encoded(Image.new("RGB", (1, 1), (255, 255, 255)), format), "a")
    assert decoded.tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused_by_name(format: str, kept: float):
    data = encoded(noise(64, 64, 3), format)
    with pytest.raises(ImageError, match=r"^folder/cut\.jpg: ."):
        decode_image(data[: int(len(data) * kept)], "folder/cut.jpg")


def test_no_bytes_are_refused_by_name():
    with pytest.raises(ImageError, match=r"^empty\.jpg: the file is empty$"):
        decode_image(b"", "empty.jpg")


def test_text_is_refused_by_name():
    with pytest.raises(ImageError, match=r"^text\.jpg: not an image in any format Pillow reads$"):
        decode_image(b"just some text", "text.jpg")


def test_damaged_pixels_of_a_png_are_refused_by_name():
    data = bytearray(encoded(noise(16, 16, 3), "PNG"))
    data[data.index(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(ImageError, match=r"^damaged\.png: ."):
        decode_image(bytes(data), "damaged.png")


def test_a_bomb_is_refused_from_its_header(monkeypatch: pytest.MonkeyPatch):
    bomb = raw_png(20000, 20000, 8, 2, b"\0")
    # Pillow decodes pixels in `load` only.
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match=r"^bomb\.png: .*400000000.*178956970"):
        decode_image(bomb, "bomb.png")


def test_half_the_bomb_limit_neither_fails_nor_warns(monkeypatch: pytest.MonkeyPatch):
    data = encoded(noise(10, 10, 3), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(data, "a.png").shape == (10, 10, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 49)
    with pytest.raises(ImageError, match="98"):
        decode_image(data, "a.png")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1", "gray", "rgb"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_give_pillows_pixels_bit_for_bit(subsampling: str, progressive: bool):
    image = Image.fromarray(noise(45, 61, 3))
    options: dict[str, Any] = {"subsampling": subsampling}
    if subsampling in ("gray", "rgb"):
        image, options = (image.convert("L"), {}) if subsampling == "gray" else (image, {"keep_rgb": True})
    data = encoded(image, "JPEG", progressive=progressive, **options)
    with Image.open(io.BytesIO(data)) as pillows:
        np.testing.assert_array_equal(decode_image(data, ""), np.array(pillows.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_corrupt_jpeg_data_is_an_error_where_pillow_makes_up_pixels(mode: str):
    data = encoded(Image.fromarray(noise(64, 64, 3)).convert(mode), "JPEG", quality=90)
    for damaged in (
        data[: len(data) // 2] + data[-2:],
        data[:1000] + b"\xf7" * 40 + data[1040:],
        data.replace(b"\xff\xdb", b"junk\xff\xdb", 1),
    ):
        with Image.open(io.BytesIO(damaged)) as pillows:
            assert np.array(pillows).shape[:2] == (64, 64)
        with pytest.raises(ImageError, match=r"^a\.jpg: some of its pixels may be wrong: Corrupt JPEG data: "):
            decode_image(damaged, "a.jpg")


def test_a_sampling_unknown_to_turbojpeg_is_left_to_pillow():
    data = encoded(noise(32, 48, 3), "JPEG", subsampling="4:2:0")
    offset = data.index(b"\xff\xc0") + 11  # sampling of the first component: 3 × 2 instead of 2 × 2
    assert decode_image(data[:offset] + b"\x32" + data[offset + 1 :], "").shape == (32, 48, 3)


def test_an_unknown_jfif_version_is_no_damage_and_hides_none():
    whole = encoded(noise(64, 64, 3), "JPEG", quality=90)
    offset = whole.index(b"JFIF\0") + 5
    data = whole[:offset] + b"\2" + whole[offset + 1 :]
    np.testing.assert_array_equal(decode_image(data, ""), decode_image(whole, ""))
    with pytest.raises(ImageError, match="some of its pixels may be wrong: Corrupt JPEG data: "):
        decode_image(data[:1000] + b"\xf7" * 40 + data[1040:], "a.jpg")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_corrupt_jpegs_in_a_tiff_are_an_error_as_well(mode: str):
    image = Image.fromarray(noise(64, 64, 3)).convert(mode)
    data = encoded(image, "TIFF", compression="jpeg", strip_size=64 * 16 * len(mode))
    with Image.open(io.BytesIO(data)) as pillows:
        assert isinstance(pillows, TiffImageFile)
        middle = pillows.tag_v2[273][2] + pillows.tag_v2[279][2] // 2  # of the third strip of 16 rows
        np.testing.assert_array_equal(decode_image(data, ""), np.array(pillows.convert("RGB")))
    damaged = data[: middle - 20] + b"\xff\xd9" * 20 + data[middle + 20 :]
    with Image.open(io.BytesIO(damaged)) as pillows:
        assert np.array(pillows).shape[:2] == (64, 64)  # Pillow makes them up
    with pytest.raises(ImageError, match=r"^a\.tif: some of its pixels may be wrong: Corrupt JPEG data: "):
        decode_image(damaged, "a.tif")
