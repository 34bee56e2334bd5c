from pathlib import Path

import numpy as np
import pytest

from simsiam.pipeline.beton.layout import ALLOCATION, HEADER
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.writer import BetonWriter

PAGE = 2 << 20

# Records are never decoded here: they start like a JPEG, and differ in length.
JPEGS = [b"\xff\xd8\xff\xe0" + bytes(700 + 10 * i) for i in range(5)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "five.beton"
    with BetonWriter(path, 5, page_size=PAGE) as writer:
        for label, record in enumerate(JPEGS):
            writer.append(record, 20, 40, label)
        writer.finish()
    return path


def edit(path: Path, dtype: np.dtype, offset: int, **values: int) -> None:
    content = bytearray(path.read_bytes())
    record = np.frombuffer(content, dtype, 1, offset)
    for key, value in values.items():
        record[key] = value
    del record
    path.write_bytes(content)


def table_start(path: Path) -> int:
    return int(np.fromfile(path, HEADER, 1)["alloc_table_ptr"][0])


@pytest.mark.parametrize("kept", [0, 10, 24, 1000, 2104, 2200, PAGE, PAGE + 700, -120, -24, -7, -1])
def test_refuses_a_truncated_file_in_one_sentence(path, kept):
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept >= 0 else len(content) + kept])
    with pytest.raises(ValueError, match=r"truncated|no \.beton file") as error:
        Beton(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [JPEGS[0], b"PK\3\4" * 999, bytes(9999), b"\2\0\2\0" + bytes(9999), b"\2\0text" * 999]
)
def test_refuses_a_foreign_file(tmp_path, build, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no \.beton file of FFCV 1\.0"):
        Beton(path)


def test_refuses_an_unfinished_file(path):
    edit(path, HEADER, 0, alloc_table_ptr=0)
    with pytest.raises(ValueError, match="unfinished"):
        Beton(path)


def test_refuses_a_file_without_images(path):
    edit(path, HEADER, 0, num_samples=0)
    with pytest.raises(ValueError, match="holds no images"):
        Beton(path)


def test_refuses_a_file_with_bytes_appended(path):
    with path.open("ab") as file:
        file.write(b"tail")
    with pytest.raises(ValueError, match="appended"):
        Beton(path)


def test_refuses_an_allocation_table_within_the_metadata(path):
    edit(path, HEADER, 0, alloc_table_ptr=2200)
    with pytest.raises(ValueError, match="overlaps the allocation table"):
        Beton(path)


@pytest.mark.parametrize("samples", [6, 100_000, 2**60])
def test_refuses_a_count_that_does_not_fit(path, samples):
    edit(path, HEADER, 0, num_samples=samples)
    with pytest.raises(ValueError, match=r"truncated|damaged"):
        Beton(path)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"ptr": 2**64 - 8}, "is outside"),
        ({"ptr": 24}, "is outside"),
        ({"size": 2**64 - 8}, "is outside"),
        ({"size": PAGE}, "is outside"),
        ({"size": 1 + len(JPEGS[0])}, "overlap"),
        ({"ptr": PAGE + 1, "size": 3}, "image 0 has no record"),
        ({"sample_id": 1}, "image 0 has no record"),
        ({"size": 0}, "image 0 disagree"),
    ],
)
def test_refuses_a_wrong_allocation_table(path, values, reason):
    edit(path, ALLOCATION, table_start(path), **values)
    with pytest.raises(ValueError, match=reason):
        Beton(path)


@pytest.mark.parametrize("image", [(2, 40, 20), (0, 0, 20), (0, 40, 0), (1, 40, 20)])
def test_refuses_a_wrong_mode_or_size(tmp_path, build, image):
    path = build(tmp_path / "f.beton", [(2, "image", [(0, 40, 20), image])], JPEGS[:2])
    with pytest.raises(ValueError, match="mode, size and length of image 1 disagree"):
        Beton(path)


def test_of_several_integer_fields_the_one_called_label_is_taken(tmp_path, build):
    image = (2, "image", [(0, 40, 20)])
    fields = [(1, "label", [4]), image, (1, "index", [9])]
    assert Beton(build(tmp_path / "f.beton", fields, JPEGS[:1])).labels.tolist() == [4]
    with pytest.raises(ValueError, match="several integer fields among a, image, index"):
        Beton(build(tmp_path / "f.beton", [(1, "a", [4]), *fields[1:]], JPEGS[:1]))


def test_refuses_two_image_fields_no_image_field_and_custom_fields(tmp_path, build):
    image = [(0, 40, 20)]
    with pytest.raises(ValueError, match="2 image fields among a, b"):
        Beton(build(tmp_path / "f.beton", [(2, "a", image), (2, "b", image)], JPEGS[:1]))
    with pytest.raises(ValueError, match="0 image fields among a"):
        Beton(build(tmp_path / "f.beton", [(1, "a", [0])], JPEGS[:1]))
    with pytest.raises(ValueError, match="field 'own' of a custom type 255"):
        Beton(build(tmp_path / "f.beton", [(2, "a", image), (255, "own", [0])], JPEGS[:1]))
