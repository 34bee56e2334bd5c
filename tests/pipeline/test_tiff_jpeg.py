import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from simsiam.pipeline.tiff_jpeg import jpegs_in_tiff

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)


def tiff(**options) -> tuple[TiffImageFile, bytes]:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "TIFF", **options)
    image = Image.open(file)
    assert isinstance(image, TiffImageFile)
    return image, file.getvalue()


def test_every_strip_is_a_jpeg_of_its_own() -> None:
    image, encoded = tiff(compression="jpeg", strip_size=32 * 3 * 16)
    strips = [simplejpeg.decode_jpeg(jpeg, "RGB", strict=True) for jpeg in jpegs_in_tiff(image, encoded)]
    assert [strip.shape for strip in strips] == [(16, 32, 3), (16, 32, 3), (8, 32, 3)]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_other_compressions_have_none(compression: str) -> None:
    assert list(jpegs_in_tiff(*tiff(compression=compression))) == []


def test_the_obsolete_style_is_refused() -> None:
    image, encoded = tiff(compression="jpeg")
    image.info["compression"] = "tiff_jpeg"  # nothing writes it any more
    with pytest.raises(ValueError, match="obsolete style"):
        list(jpegs_in_tiff(image, encoded))
