import warnings

import pytest
from PIL import Image

from simsiam.pipeline.image_formats import FORMATS
from simsiam.pipeline.sources.endings import IMAGE_ENDINGS, count_endings, ending_of, is_image_name, warn_of_other_files


def test_the_endings_are_those_of_formats_that_pillow_opens():
    kept = {
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "mpo",
        "png",
        "apng",
        "bmp",
        "gif",
        "webp",
        "avif",
        "tif",
        "tiff",
        "jp2",
        "ppm",
    }
    assert kept <= set(IMAGE_ENDINGS)
    assert not {"pdf", "eps", "ps", "mpg", "fli", "wmf", "ico", "psd", "h5", "fits", "rgb"} & set(IMAGE_ENDINGS)
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


@pytest.mark.parametrize(
    "name, is_image, ending",
    [
        (b"a/b.JPG", True, ".jpg"),
        (b"a.b/c", False, ""),
        (b"a.tar.gz", False, ".gz"),
        (b"jpg", False, ""),
        (b".jpg", True, ""),
        (b"a.", False, ""),
        (b"a.\xff", False, ".\\xff"),
    ],
)
def test_the_ending_is_what_follows_the_last_dot_of_the_name(name: bytes, is_image: bool, ending: str):
    assert (is_image_name(name), ending_of(name)) == (is_image, ending)


def test_other_files_are_counted_by_ending_in_one_sentence():
    names = [b"a.txt"] * 8 + [b"b.CSV"] * 4 + [b"c"]
    with pytest.warns(UserWarning, match=r"^set: 13 files .*: 8 \.txt, 4 \.csv, 1 without an ending$"):
        warn_of_other_files(count_endings(names), "set")


def test_many_endings_are_summed_up_and_none_is_lost():
    with pytest.warns(UserWarning, match=r"^set: 2,020 files .*: 1,001 \.x, 1,000 \.y, .*, 13 of 13 more endings$"):
        warn_of_other_files({".x": 1001, ".y": 1000} | {f".{number:02d}": 1 for number in range(19)}, "set")


def test_nothing_is_said_where_all_files_are_read():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_files({}, "set")
