import io

import pytest
import simplejpeg
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from simsiam.pipeline.tiff_jpeg import jpegs_in_tiff
from tests.pipeline.images import encoded, noise


def tiff(**options) -> tuple[TiffImageFile, bytes]:
    data = encoded(noise(40, 32, 3), "TIFF", **options)
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, TiffImageFile)
    return image, data


def test_every_strip_is_a_jpeg_of_its_own() -> None:
    strips = jpegs_in_tiff(*tiff(compression="jpeg", strip_size=32 * 3 * 16))
    strips = [simplejpeg.decode_jpeg(jpeg, "RGB", strict=True) for jpeg in strips]
    assert [strip.shape for strip in strips] == [(16, 32, 3), (16, 32, 3), (8, 32, 3)]


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
def test_other_compressions_have_none(compression: str) -> None:
    assert list(jpegs_in_tiff(*tiff(compression=compression))) == []


def test_the_obsolete_style_is_refused() -> None:
    image, data = tiff(compression="jpeg")
    image.info["compression"] = "tiff_jpeg"  # no library writes it any more
    with pytest.raises(ValueError, match="obsolete"):
        list(jpegs_in_tiff(image, data))
