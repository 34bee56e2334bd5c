"""Images to test with, and their encoded bytes."""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image


def encoded(image: Image.Image | npt.NDArray[Any], format: str = "JPEG", **options: Any) -> bytes:
    """Encode an image, or its pixels, as Pillow does with these options."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, format, **options)
    return stream.getvalue()


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random uint8 values of this shape."""
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def photograph(height: int, width: int, seed: int) -> Image.Image:
    """Coloured noise whose amplitude falls with frequency, as in photographs."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")) + 1 / height
    waves = rng.normal(size=(3, *frequency.shape)) + 1j * rng.normal(size=(3, *frequency.shape))
    pixels = np.fft.irfft2(waves / frequency, s=(height, width)).transpose(1, 2, 0)
    return Image.fromarray((128 + 50 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))


def with_orientation(tag: int) -> Image.Exif:
    """EXIF data that ask for a turn (1 to 8)."""
    exif = Image.Exif()
    exif[0x0112] = tag
    return exif


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(png: bytes, kind: bytes, body: bytes, before: bytes = b"IDAT") -> bytes:
    """Put a chunk into a PNG, before the first one of another kind."""
    offset = png.index(before) - 4
    return png[:offset] + chunk(kind, body) + png[offset:]


def raw_png(width: int, height: int, depth: int, color: int, data: bytes) -> bytes:
    """A PNG with these rows, each with its filter's byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def png16(samples: npt.NDArray[np.uint16]) -> bytes:
    """A PNG of samples of 16 bits, (height, width, 1 to 4): gray, gray and alpha, RGB, RGBA."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return raw_png(samples.shape[1], samples.shape[0], 16, {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]], rows)


def raw_tiff(
    samples: npt.NDArray[Any],
    photometric: int = 1,
    extra: Sequence[int] = (),
    order: Literal["<", ">"] = "<",
    deflate: bool = False,
) -> bytes:
    """A TIFF of any samples, (height, width, bands), whatever Pillow can write or read."""
    height, width, bands = samples.shape
    number_format = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    pixels = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    pixels = zlib.compress(pixels) if deflate else pixels
    tags: list[tuple[int, str, Sequence[int]]] = [
        (256, "I", [width]),
        (257, "I", [height]),
        (258, "H", [8 * samples.itemsize] * bands),
        (259, "H", [8 if deflate else 1]),
        (262, "H", [photometric]),
        (273, "I", [8]),
        (277, "H", [bands]),
        (278, "I", [height]),
        (279, "I", [len(pixels)]),
        *([(338, "H", list(extra))] if extra else []),
        (339, "H", [number_format] * bands),
    ]
    start = 8 + len(pixels)
    rest = start + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, kind, numbers in tags:
        packed = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        if len(packed) > 4:
            packed, values = struct.pack(f"{order}I", rest + len(values)), values + packed
        entries += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + pixels + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values
