import contextlib
import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from simsiam.pipeline.decode import decode_deep, decode_image
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.intensity import ADVICE
from tests.pipeline.images import chunk, encoded, noise, png16, raw_png, raw_tiff, with_chunk, with_orientation


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


def expected_of(samples: np.ndarray, low: float, high: float) -> np.ndarray:
    """The values of the rule, in exact arithmetic where it is rounded."""
    return np.floor((samples.astype(float).clip(low, high) - low) * 255 / (high - low) + 0.5)


TWELVE_BITS = np.array([[0, 37, 1000, 2048], [4011, 4095, 16, 255]], np.uint16)[:, :, None]
DEEP = {
    "png-gray": png16(TWELVE_BITS),
    "png-gray-alpha": png16(np.concatenate([TWELVE_BITS, TWELVE_BITS[::-1]], axis=2)),
    "png-rgb": png16(np.repeat(TWELVE_BITS, 3, axis=2)),
    "png-rgba": png16(np.concatenate([TWELVE_BITS] * 3 + [TWELVE_BITS[::-1]], axis=2)),
    "pgm-16": b"P5 4 2 65535\n" + TWELVE_BITS.astype(">u2").tobytes(),
    "pgm-12": b"P5 4 2 4095\n" + TWELVE_BITS.astype(">u2").tobytes(),
    "tiff-little": raw_tiff(TWELVE_BITS),
    "tiff-big": raw_tiff(TWELVE_BITS, order=">"),
    "tiff-deflate": encoded(TWELVE_BITS[:, :, 0], "TIFF", compression="tiff_deflate"),
    "tiff-rgb": raw_tiff(np.repeat(TWELVE_BITS, 3, axis=2), photometric=2),
    "tiff-rgb-big": raw_tiff(np.repeat(TWELVE_BITS, 3, axis=2), photometric=2, order=">"),
    "tiff-rgb-deflate": raw_tiff(np.repeat(TWELVE_BITS, 3, axis=2), photometric=2, deflate=True),
    "tiff-rgb-big-deflate": raw_tiff(np.repeat(TWELVE_BITS, 3, axis=2), photometric=2, order=">", deflate=True),
    "tiff-rgba": raw_tiff(np.repeat(TWELVE_BITS, 4, axis=2), photometric=2, extra=[2]),
    "tiff-signed-16": raw_tiff(TWELVE_BITS.astype(np.int16)),
    "tiff-signed-32": raw_tiff(TWELVE_BITS.astype(np.int32)),
    "tiff-unsigned-32": raw_tiff(TWELVE_BITS.astype(np.uint32)),
    "tiff-float": raw_tiff(TWELVE_BITS.astype(np.float32)),
    "tiff-float-big": raw_tiff(TWELVE_BITS.astype(np.float32), order=">"),
    "pfm": b"Pf\n4 2\n-1.0\n" + TWELVE_BITS[::-1].astype("<f4").tobytes(),
    "jpeg-2000": encoded(TWELVE_BITS[:, :, 0], "JPEG2000"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_samples_are_refused_by_mode_depth_and_range(kind: str):
    with pytest.raises(
        ImageError, match=r"^a: .*(16|32) bits.*mode (I;16B?|I|F|RGB|RGBA).*values 0 to 4095; "
    ) as caught:
        decode_image(DEEP[kind], "a")
    assert ADVICE in str(caught.value)


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("intensity, clipped", [((0, 4095), False), ((0, 65535), False), ((37.5, 2047.5), True)])
def test_deep_samples_are_scaled_by_the_given_range(kind: str, intensity: tuple[float, float], clipped: bool):
    decoded = decode_deep(DEEP[kind], "a", intensity)
    np.testing.assert_array_equal(decoded.pixels, np.broadcast_to(expected_of(TWELVE_BITS, *intensity), (2, 4, 3)))
    assert (decoded.pixels.dtype, decoded.scaled, decoded.clipped) == (np.uint8, True, clipped)
    assert decoded.pixels.flags.c_contiguous and decoded.pixels.flags.writeable


@pytest.mark.parametrize("top, expected", [(1.0, [0, 64, 128, 255]), (10000.0, [0, 64, 128, 255])])
def test_floats_are_neither_black_nor_white(top: float, expected: list[int]):
    samples = np.array([[[0], [0.25], [0.5], [1]]], np.float32) * top
    with pytest.raises(ImageError, match=f"32 bits, float, Pillow's mode F, values 0 to {top:g}; "):
        decode_image(raw_tiff(samples), "a")
    assert decode_deep(raw_tiff(samples), "a", (0, top)).pixels[0, :, 0].tolist() == expected


def test_what_is_no_number_counts_as_the_lowest_and_as_clipped():
    samples = np.array([[[np.nan], [0.5], [np.inf], [-np.inf]]], np.float32)
    with pytest.raises(ImageError, match=r"values 0\.5 to 0\.5; "):
        decode_image(raw_tiff(samples), "a")
    decoded = decode_deep(raw_tiff(samples), "a", (0, 1))
    assert (decoded.pixels[0, :, 0].tolist(), decoded.clipped) == ([0, 128, 255, 0], True)


def test_signed_and_large_unsigned_samples_keep_their_sign():
    signed = raw_tiff(np.array([[[-128], [0], [127]]], np.int8))
    with pytest.raises(ImageError, match="8 bits, signed, Pillow's mode L, values -128 to 127"):
        decode_image(signed, "a")
    assert decode_deep(signed, "a", (-128, 127)).pixels[0, :, 0].tolist() == [0, 128, 255]
    large = raw_tiff(np.array([[[0], [1 << 31], [(1 << 32) - 1]]], np.uint32))
    assert decode_deep(large, "a", (0, (1 << 32) - 1)).pixels[0, :, 0].tolist() == [0, 128, 255]


def test_where_zero_is_white_it_becomes_white():
    samples = np.array([[[0], [4095]]], np.uint16)
    assert decode_deep(raw_tiff(samples, photometric=0), "a", (0, 4095)).pixels[0, :, 0].tolist() == [255, 0]


def test_the_range_leaves_8_bit_images_as_they_are():
    pixels = noise(5, 7, 3)
    for format in ("PNG", "TIFF", "BMP"):
        decoded = decode_deep(encoded(pixels, format), "a", (0, 4095))
        assert (decoded.pixels == pixels).all() and not decoded.scaled


@pytest.mark.parametrize(
    "bands, photometric, extra",
    [
        (2, 1, [0]),
        (4, 2, [0]),
        (4, 2, []),
        (4, 1, [0, 0, 0]),
        (5, 2, [2, 0]),
        (6, 2, [0, 0, 0]),
        (5, 5, [0]),
        (13, 1, [0] * 12),
    ],
)
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_a_tiff_whose_bands_would_be_lost_is_refused_by_their_number(
    bands: int, photometric: int, extra: list[int], depth: type, caplog: pytest.LogCaptureFixture
):
    data = raw_tiff(noise(4, 6, bands).astype(depth), photometric, extra)
    for intensity in (None, (0, 255)):
        caplog.clear()
        with pytest.raises(ImageError, match=rf"^a\.tif: .*\b{bands} bands of (8|16) bits.* store ") as caught:
            decode_deep(data, "a.tif", intensity)
        assert "cannot identify" not in str(caught.value)
        assert [record for record in caplog.records if record.levelname != "DEBUG"] == []


@pytest.mark.parametrize("bands, photometric, extra", [(1, 1, []), (2, 1, [2]), (3, 2, []), (4, 2, [1]), (4, 2, [2])])
@pytest.mark.parametrize("order", "<>")
def test_a_tiff_of_colours_and_alpha_gives_its_colours(bands: int, photometric: int, extra: list[int], order: Any):
    samples = noise(4, 6, bands)
    if extra:
        samples[:, :, -1] = 255  # opaque, so that premultiplied colours are the colours
    expected = samples[:, :, :3] if bands > 2 else samples[:, :, :1]
    decoded = decode_image(raw_tiff(samples, photometric, extra, order), "a")
    assert (decoded == expected).all() and decoded.shape == (4, 6, 3)


def test_a_fourth_band_of_jpeg_2000_is_dropped_only_if_it_is_alpha():
    data = encoded(noise(16, 16, 4), "JPEG2000")
    assert decode_image(data, "a").shape == (16, 16, 3)
    with pytest.raises(ImageError, match="4 bands of 8 bits"):
        decode_image(data[data.index(b"\xff\x4f\xff\x51") :], "a")


@pytest.mark.parametrize("data", [b"P6 1 1 4095\n" + bytes(6), b"P3 1 1 65535\n1 2 3\n"])
def test_colours_whose_low_byte_pillow_drops_are_refused(data: bytes):
    for intensity in (None, (0, 4095)):
        with pytest.raises(ImageError, match="16 bits, of which Pillow's mode RGB keeps the upper 8"):
            decode_deep(data, "a", intensity)


def test_floats_that_pillow_has_no_mode_for_are_refused_by_their_depth():
    with pytest.raises(ImageError, match="64 bits, float a sample"):
        decode_image(raw_tiff(np.ones((2, 2, 1))), "a")


@pytest.mark.parametrize("depth, levels", [(1, 2), (2, 4), (4, 16)])
def test_few_bits_are_spread_to_the_whole_range(depth: int, levels: int):
    packed = sum(value << (8 - depth * (value + 1)) for value in range(min(levels, 8 // depth)))
    decoded = decode_image(raw_png(8 // depth, 1, depth, 0, bytes([0, packed])), "a")
    assert decoded[0, :, 0].tolist()[:levels] == [
        value * 255 // (levels - 1) for value in range(min(levels, 8 // depth))
    ]


@pytest.mark.parametrize(
    "kind, body",
    [
        (b"tEXt", b"k\0" + bytes(3 << 20)),
        (b"zTXt", b"k\0\0" + zlib.compress(bytes(3 << 20))),
        (b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        (b"iCCP", b"k\0\0" + zlib.compress(bytes(3 << 20))),
        (b"iCCP", b"k\0\7"),
        (b"zTXt", b"k\0\0no zlib"),
        (b"prVt", bytes(3 << 20)),
    ],
)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_metadata_of_any_size_says_nothing_about_the_pixels_of_a_png(kind: bytes, body: bytes, before: bytes):
    pixels = noise(5, 7, 3)
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    assert (decode_image(with_chunk(encoded(pixels, "PNG"), kind, body, before), "a") == pixels).all()
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


def test_many_texts_of_a_png_are_no_reason_to_refuse_it():
    pixels, data = noise(5, 7, 3), encoded(noise(5, 7, 3), "PNG")
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)))
    offset = data.index(b"IDAT") - 4
    assert (decode_image(data[:offset] + text * 70 + data[offset:], "a") == pixels).all()


def test_segments_of_a_jpeg_say_nothing_about_its_pixels():
    data = encoded(noise(16, 16, 3))
    expected = decode_image(data, "a")
    for body in (b"Exif\0\0" + bytes(60000), b"MPF\0damaged", b"ICC_PROFILE\0\7\1damaged", b"Photoshop 3.0\0\0"):
        for marker in (b"\xff\xe1", b"\xff\xe2", b"\xff\xed"):
            segment = marker + struct.pack(">H", len(body) + 2) + body
            assert (decode_image(data[:2] + segment + data[2:], "a") == expected).all()


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


def without_end_marker() -> bytes:
    """A JPEG whose end marker is missing, which Pillow decodes all the same; it refuses some others like it."""
    for seed in range(1000):
        data = encoded(noise(64, 64, 3, seed=seed), quality=80)[:-2]
        with contextlib.suppress(OSError), Image.open(io.BytesIO(data)) as pillows:
            pillows.load()
            return data
    raise AssertionError


def test_a_jpeg_without_its_end_marker_is_refused_though_pillow_decodes_it():
    with pytest.raises(ImageError, match=r"^a: some of its pixels may be wrong: .*[Pp]remature end"):
        decode_image(without_end_marker(), "a")


def test_a_jpeg_of_12_bits_is_refused_by_its_depth():
    data = encoded(noise(16, 16, 3))
    offset = data.index(b"\xff\xc0") + 4
    with pytest.raises(ImageError, match="12 bits"):
        decode_image(data[:offset] + b"\x0c" + data[offset + 1 :], "a")


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
