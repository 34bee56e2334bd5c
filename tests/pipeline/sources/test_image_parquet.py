import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.errors import ImageError, UsageError
from simsiam.pipeline.sources.open_records import open_records
from tests.pipeline.images import encoded

pa = pytest.importorskip("pyarrow", reason="pyarrow isn't installed")
pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow isn't installed")


def jpeg(number: int) -> bytes:
    return encoded(Image.new("RGB", (20 + number, 30), (number % 256, 40, 90)))


def write(path: Path, first: int, count: int, column: str = "image", rows: int = 20, **features) -> Path:
    """Write images `first`, …, in row groups of `rows`; image 0 has no bytes."""
    numbers = range(first, first + count)
    images = [{"bytes": jpeg(n) if n else None, "path": f"{n}.jpg" if n % 2 else None} for n in numbers]
    table = pa.table(
        {
            "id": list(numbers),
            column: pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": [n % 3 for n in numbers],
        }
    )
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=rows)
    return path


FEATURES = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["ant", "bee", "cat"]}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "train-00000-of-00002.parquet", 0, 50, **FEATURES)
    write(tmp_path / "train-00001-of-00002.parquet", 50, 10, **FEATURES)
    return tmp_path


@pytest.mark.parametrize("how", ["", "train-*.parquet", "train-{00000..00001}-of-00002.parquet"])
def test_images_names_labels_and_classes_of_several_files(folder, how):
    records = open_records(folder / how)
    assert len(records) == 60
    assert records.labels.tolist() == [n % 3 for n in range(60)]
    assert list(records.classes) == ["ant", "bee", "cat"]
    assert [records.name(n) for n in (1, 2, 51, 52)] == [
        "1.jpg",
        "train-00000-of-00002.parquet[2]",
        "51.jpg",
        "train-00001-of-00002.parquet[2]",
    ]
    assert [records.read(n) for n in range(1, 60)] == [jpeg(n) for n in range(1, 60)]


def test_a_snapshot_of_hugging_face_is_found_and_its_splits_are_told_apart(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").touch()
    for number in range(2):
        write(tmp_path / "data" / f"train-{number:05d}-of-00002.parquet", 1 + 10 * number, 10, **FEATURES)
    assert len(open_records(tmp_path)) == 20
    write(tmp_path / "data" / "test-00000-of-00001.parquet", 1, 4, **FEATURES)
    for how in (tmp_path, tmp_path / "data", tmp_path / "data" / "*.parquet"):
        with pytest.raises(UsageError, match=r"test-00000-of-00001\.parquet, '.*/data/train-\*\.parquet'"):
            open_records(how)
    assert len(open_records(tmp_path / "data" / "train-*.parquet")) == 20


def test_images_can_be_read_in_any_order(folder):
    records = open_records(folder)
    for n in (59, 1, 30, 29, 19, 20, 21, 49, 50, 5, 5):
        assert records.read(n) == jpeg(n)


def test_converting_copies_the_bytes_and_reports_missing_ones(folder):
    report = convert(open_records(folder), folder / "o.beton", workers=3)
    ((name, reason),) = report.skipped
    assert name == "train-00000-of-00002.parquet[0]"
    assert "bytes" in reason
    beton = Beton(folder / "o.beton")
    assert [beton.read(n) for n in range(59)] == [jpeg(n) for n in range(1, 60)]
    assert beton.classes == ["ant", "bee", "cat"]


def test_without_metadata_the_column_is_found_by_its_type(tmp_path):
    records = open_records(write(tmp_path / "a.parquet", 1, 4, column="img"))
    assert [records.read(n) for n in range(4)] == [jpeg(n) for n in range(1, 5)]
    assert list(records.classes) == ["0", "1", "2"]


def test_a_column_of_bytes_is_read(tmp_path):
    pq.write_table(pa.table({"jpg": [jpeg(1), jpeg(2)]}), tmp_path / "a.parquet")
    records = open_records(tmp_path / "a.parquet")
    assert [records.read(n) for n in range(2)] == [jpeg(1), jpeg(2)]
    assert records.labels.tolist() == [-1, -1]


def test_other_columns_truncated_files_and_files_that_differ_are_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    with pytest.raises(UsageError, match="0 columns of images among text"):
        open_records(tmp_path / "text.parquet")
    good = write(tmp_path / "good.parquet", 1, 4, **FEATURES)
    other = write(tmp_path / "other.parquet", 1, 4, column="img")
    with pytest.raises(UsageError, match="other columns or classes"):
        open_records(tmp_path / "{good,other}.parquet")
    data = good.read_bytes()
    for length in (4, len(data) // 4, len(data) // 2, len(data) - 1):
        other.write_bytes(data[:length])
        with pytest.raises(UsageError, match="download or copy it again"):
            open_records(other)


def test_damage_within_a_file_is_an_error_that_names_the_image(tmp_path):
    path = write(tmp_path / "a.parquet", 1, 4, **FEATURES)
    records = open_records(path)
    data = bytearray(path.read_bytes())
    start = data.index(jpeg(1)[:20])
    data[4:start] = b"\xff" * (start - 4)
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"1\.jpg: .*a\.parquet can't be read"):
        records.read(0)


def test_a_changed_byte_is_found_by_checksums_if_the_file_has_them(tmp_path):
    path = tmp_path / "a.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(pa.table({"jpg": [jpeg(1)]}), path, write_page_checksum=True, **plain)
    data = bytearray(path.read_bytes())
    data[data.index(jpeg(1)) + 300] ^= 1
    path.write_bytes(data)
    with pytest.raises(ImageError, match="CRC"):
        open_records(path).read(0)


def test_a_path_that_is_no_text_is_refused(tmp_path):
    images = [{"bytes": jpeg(1), "path": "marker.jpg"}]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": images}), path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"marker", b"mark\xd0r"))
    with pytest.raises(UsageError, match=r"Can't read .* can't decode byte"):
        open_records(path)


def test_without_pyarrow_its_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", 1, 4)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match="pip install pyarrow"):
        open_records(path)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["ant", "bee"], "label .* string"),
        ([0.5, 1.5], "label .* double"),
        ([[0], [1]], "label .* list"),
        ([-2, 0], "holds -2; .* 1048576"),
        ([1 << 40, 0], "holds 1099511627776"),
    ],
)
def test_labels_other_than_class_numbers_are_refused(tmp_path, labels, reason):
    pq.write_table(pa.table({"jpg": [jpeg(1), jpeg(2)], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match=reason):
        open_records(tmp_path / "a.parquet")


def test_a_class_without_a_name_is_refused_and_a_missing_class_is_unlabelled(tmp_path):
    features = {**FEATURES, "label": {"_type": "ClassLabel", "names": ["ant", "bee"]}}
    with pytest.raises(UsageError, match=r"holds 2; .* below 2"):
        open_records(write(tmp_path / "a.parquet", 1, 4, **features))
    pq.write_table(pa.table({"jpg": [jpeg(1)] * 3, "label": [None, -1, 1]}), tmp_path / "b.parquet")
    assert open_records(tmp_path / "b.parquet").labels.tolist() == [-1, -1, 1]


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({"picture": {"_type": "Image"}}, "has 0 columns picture"),
        ({"id": {"_type": "Image"}}, "column id .* int64"),
        ({"kind": {"_type": "ClassLabel", "names": ["a"]}}, "has 0 columns kind"),
    ],
)
def test_metadata_that_contradicts_the_columns_is_refused(tmp_path, features, reason):
    with pytest.raises(UsageError, match=reason):
        open_records(write(tmp_path / "a.parquet", 1, 4, **features))


@pytest.mark.parametrize(
    ("names", "chosen", "labels"),
    [
        (["fine", "coarse"], "none is taken, and the images are unlabelled", [-1]),
        (["fine", "label"], "label is taken", [1]),
    ],
)
def test_a_choice_between_columns_of_classes_is_told(tmp_path, names, chosen, labels):
    features = {name: {"_type": "ClassLabel", "names": ["ant", "bee"]} for name in names}
    table = pa.table({"jpg": [jpeg(1)], **{name: [1] for name in names}})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match=rf"2 columns of classes \({', '.join(names)}\): {chosen}"):
        assert open_records(tmp_path / "a.parquet").labels.tolist() == labels


def test_metadata_of_list_columns_is_ignored_and_foreign_metadata_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", 1, 4, **FEATURES, boxes=[{"dtype": "int64"}])
    assert list(open_records(path).classes) == ["ant", "bee", "cat"]
    table = pa.table({"jpg": [jpeg(1)]}).replace_schema_metadata({"huggingface": '{"info": []}'})
    pq.write_table(table, path)
    with pytest.raises(UsageError, match=r"metadata .* huggingface"):
        open_records(path)


def test_a_file_without_a_row_is_refused(tmp_path):
    pq.write_table(pa.table({"jpg": [jpeg(1)]}).slice(0, 0), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="has no row"):
        open_records(tmp_path / "a.parquet")
