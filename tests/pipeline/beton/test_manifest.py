import json
from pathlib import Path
from typing import Any

import pytest

from simsiam.pipeline.beton.layout import read_index
from simsiam.pipeline.beton.manifest import Manifest, manifest_path, write_manifest
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


def add_manifest(path: Path, **changes: Any) -> Manifest:
    with path.open("rb") as file:
        index = read_index(file.fileno(), path)
    facts: dict[str, Any] = {
        "simsiam_version": "0",
        "images": 5,
        "file_bytes": path.stat().st_size,
        "index_crc32": index.checksum,
        "page_size": PAGE,
        "classes": list("abcde"),
        "settings": {},
        "left_out": [("x.jpg", "empty")],
        "page_crc32": [],
        "names": [f"{i}.jpg" for i in range(5)],
    }
    manifest = Manifest(**facts | changes)
    write_manifest(manifest, path)
    return manifest


@pytest.mark.parametrize(
    "changes",
    [{"images": 4, "names": ["a"] * 4}, {"file_bytes": 7}, {"index_crc32": 7}, {"names": ["a"]}],
    ids=lambda changes: next(iter(changes)),
)
def test_refuses_the_manifest_of_another_file(path, changes):
    add_manifest(path, **changes)
    with pytest.raises(ValueError, match=r"manifest .* belongs to another file"):
        Beton(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": 3}', "", "é"])
def test_refuses_a_damaged_manifest(path, text):
    manifest_path(path).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest .* is damaged"):
        Beton(path)


@pytest.mark.parametrize("changes", [{"classes": "abc"}, {"names": [1] * 5}, {"images": "5"}, {"page_crc32": None}])
def test_refuses_a_manifest_with_values_of_a_wrong_type(path, changes):
    add_manifest(path, **changes)
    with pytest.raises(ValueError, match=r"manifest .* is damaged"):
        Beton(path)


def test_reads_a_manifest_of_version_1_which_has_no_remarks(path):
    add_manifest(path)
    file = manifest_path(path)
    document = json.loads(file.read_text()) | {"format_version": 1}
    del document["remarks"]
    file.write_text(json.dumps(document))
    manifest = Beton(path).manifest
    assert manifest is not None and (manifest.remarks, manifest.left_out) == ([], [("x.jpg", "empty")])


def test_refuses_a_manifest_of_an_unknown_version(path):
    add_manifest(path)
    manifest = manifest_path(path)
    manifest.write_text(manifest.read_text().replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(ValueError, match="format version 3 is unknown"):
        Beton(path)
