import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("nvidia.dali", reason="DALI isn't installed")

from simsiam.pipeline.errors import RunError
from simsiam.pipeline.loaders import dali_pipeline
from simsiam.pipeline.loaders.dali_pipeline import QUEUE, DaliPipeline, reads_like_pillow
from tests.pipeline.images import encoded, with_orientation

CPU = torch.device("cpu")
HEIGHT, WIDTH = 40, 56


def picture() -> Image.Image:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack([4 * x, 5 * y, 255 - x - y], axis=-1).astype(np.uint8))


def jpeg(**options: Any) -> bytes:
    return encoded(picture(), **options)


def with_frame_byte(data: bytes, offset: int, value: int) -> bytes:
    """Change one byte of the frame header, counted from its marker."""
    changed = bytearray(data)
    changed[data.index(b"\xff\xc0") + offset] = value
    return bytes(changed)


def with_adobe_transform(data: bytes, transform: int) -> bytes:
    """Add an Adobe segment with this transform: 0 RGB, 1 YCbCr."""
    return data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([transform]) + data[2:]


def open_pipeline(views: int = 2, size: int = 8) -> DaliPipeline:
    return DaliPipeline(CPU, threads=1, batch=3, views=views, crop_size=size, hw_decoder_load=0.65)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_usual_jpegs_go_to_dali(subsampling: int, progressive: bool) -> None:
    assert reads_like_pillow(jpeg(subsampling=subsampling, progressive=progressive), HEIGHT, WIDTH)


def test_a_gray_jpeg_and_one_with_metadata_go_to_dali() -> None:
    assert reads_like_pillow(encoded(picture().convert("L")), HEIGHT, WIDTH)
    assert reads_like_pillow(with_adobe_transform(jpeg(), 1), HEIGHT, WIDTH)
    assert reads_like_pillow(
        jpeg(exif=with_orientation(6), icc_profile=b"\xff\xc0" * 300, comment=b"\xff\xc2"), HEIGHT, WIDTH
    )


OTHERS = {
    "nothing": b"",
    "a start": b"\xff\xd8",
    "a start and an end": b"\xff\xd8\xff\xd9",
    "text": b"text",
    "PNG": encoded(picture(), "PNG"),
    "GIF": encoded(picture(), "GIF"),
    "WebP": encoded(picture(), "WEBP"),
    "CMYK": encoded(picture().convert("CMYK")),
    "RGB": jpeg(keep_rgb=True),
    "RGB by Adobe's segment": with_adobe_transform(jpeg(), 0),
    "no end": jpeg()[:-2],
    "more behind the end": jpeg() + b"\0",
    "cut in the headers": jpeg()[:30] + b"\xff\xd9",
    "lossless": with_frame_byte(jpeg(), 1, 0xC3),
    "arithmetic code": with_frame_byte(jpeg(), 1, 0xC9),
    "padding": jpeg()[:2] + b"\xff" + jpeg()[2:],
    "12 bits": with_frame_byte(jpeg(), 4, 12),
    "four components": with_frame_byte(jpeg(), 9, 4),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_all_else_goes_to_the_reference_decoder(kind: str) -> None:
    assert not reads_like_pillow(OTHERS[kind], HEIGHT, WIDTH)


def test_a_jpeg_of_another_size_or_beyond_the_bomb_limit_does_not_go_to_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not reads_like_pillow(jpeg(), WIDTH, HEIGHT)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2)
    assert reads_like_pillow(jpeg(), HEIGHT, WIDTH)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", HEIGHT * WIDTH // 2 - 1)
    assert not reads_like_pillow(jpeg(), HEIGHT, WIDTH)


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}])
def test_a_box_of_the_crops_size_gives_the_decoded_pixels_themselves(options: dict[str, Any]) -> None:
    data = jpeg(**options)
    pipeline = open_pipeline()
    pipeline.feed([np.frombuffer(data, np.uint8)], np.array([[[3, 5, 8, 8], [32, 48, 8, 8]]], np.int32))
    views = pipeline.take()
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert (views[0].numpy()[0] == expected[3:11, 5:13]).all()
    assert (views[1].numpy()[0] == expected[32:40, 48:56]).all()
    pipeline.close()


def test_batches_come_back_in_order_whatever_their_size() -> None:
    pipeline = open_pipeline(views=1)
    sent = []
    for count in (3, 1, 2, 3, 1):
        colours = np.random.default_rng(count).integers(0, 256, count).tolist()
        jpegs = [np.frombuffer(encoded(Image.new("L", (16, 16), colour)), np.uint8) for colour in colours]
        pipeline.feed(jpegs, np.tile(np.array([0, 0, 16, 16], np.int32), (count, 1, 1)))
        sent.append((colours, jpegs))
        if len(sent) == QUEUE:
            (crops,) = pipeline.take()
            assert crops[:, 4, 4, 0].tolist() == sent.pop(0)[0]
    pipeline.close()


def test_a_device_that_decodes_wrong_colours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DaliPipeline, "take", lambda self: [torch.zeros(1, 8, 8, 3, dtype=torch.uint8)])
    with pytest.raises(RunError, match="wrong colours on cpu"):
        open_pipeline()


def test_a_device_on_which_dali_fails_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "Error in operator `decoders.image`,\nencountered:\n\n[/opt/dali/x.cc:12] No device.\nStacktrace (9)"

    class Broken:
        def __init__(self, **_: Any) -> None:
            raise RuntimeError(message)

    monkeypatch.setattr(dali_pipeline, "Pipeline", Broken)
    with pytest.raises(RunError, match=r"on cpu \(No device\.\)") as caught:
        open_pipeline()
    assert "\n" not in str(caught.value)
