import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simsiam.pipeline.beton.layout import read_index
from simsiam.pipeline.beton.manifest import Manifest, page_checksums, write_manifest
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.writer import BetonWriter
from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError, RawRecordError
from simsiam.pipeline.sources.open_source import open_source
from tests.pipeline.images import encoded

PAGE = 2 << 20


def gradient(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours, so that JPEG stays close to them."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 3 + seed * 20, columns * 2 + seed, rows + columns], axis=2).clip(0, 255).astype(np.uint8)


IMAGES = [gradient(20 + 4 * i, 40 - 3 * i, i) for i in range(5)]
JPEGS = [encoded(pixels, quality=90) for pixels in IMAGES]
LABELS = [2, 0, 1, 2, 0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "five.beton"
    with BetonWriter(path, 5, page_size=PAGE) as writer:
        for jpeg, pixels, label in zip(JPEGS, IMAGES, LABELS, strict=True):
            writer.append(jpeg, pixels.shape[0], pixels.shape[1], label)
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
        "classes": ["ant", "bee", "cat"],
        "settings": {},
        "left_out": [("x.jpg", "empty")],
        "page_crc32": [],
        "names": [f"{i}.jpg" for i in range(5)],
    }
    manifest = Manifest(**facts | changes)
    write_manifest(manifest, path)
    return manifest


def test_gives_sizes_labels_bytes_and_pixels_in_order(path):
    beton = Beton(path)
    assert len(beton) == 5
    assert beton.sizes.dtype == np.int32
    assert beton.sizes.tolist() == [list(pixels.shape[:2]) for pixels in IMAGES]
    assert beton.labels.dtype == np.int64
    assert beton.labels.tolist() == LABELS
    assert [beton.read(i) for i in range(5)] == JPEGS
    for i in range(5):
        np.testing.assert_array_equal(beton.decode(i), decode_image(JPEGS[i], ""))


def test_open_source_opens_it(path):
    assert len(open_source(path)) == 5


def test_without_a_manifest_classes_and_images_are_numbered(path):
    beton = Beton(path)
    assert list(beton.classes) == ["0", "1", "2"]
    assert beton.name(3) == "five.beton[3]"
    assert beton.manifest is None


def test_classes_and_names_come_from_the_manifest(path):
    manifest = add_manifest(path)
    beton = Beton(path)
    assert list(beton.classes) == ["ant", "bee", "cat"]
    assert beton.name(3) == "3.jpg"
    assert beton.manifest == manifest


def test_refuses_a_label_without_a_class_name(path):
    add_manifest(path, classes=["ant", "bee"])
    with pytest.raises(ValueError, match=r"label 2, .* 2 classes"):
        Beton(path)


def test_a_pickle_reopens_the_file(path):
    beton = pickle.loads(pickle.dumps(Beton(path)))
    assert beton.read(4) == JPEGS[4]
    assert beton.labels.tolist() == LABELS


def test_a_pickle_refuses_another_file_of_the_same_name(path):
    pickled = pickle.dumps(Beton(path))
    with BetonWriter(path, 1, page_size=PAGE, overwrite=True) as writer:
        writer.append(JPEGS[0], 20, 40, 0)
        writer.finish()
    with pytest.raises(ValueError, match="replaced"):
        pickle.loads(pickled)


def test_refuses_a_missing_file(tmp_path, build):
    with pytest.raises(ValueError, match="Can't open"):
        Beton(tmp_path / "none.beton")


def test_finds_the_fields_by_type_and_reads_raw_and_jpg_records(tmp_path, build):
    raw = IMAGES[1].tobytes()
    path = build(
        tmp_path / "f.beton",
        [
            (0, "weight", [0.5, 0.25]),
            (1, "category", [7, 3]),
            (3, "note", [(0, 0), (0, 0)]),
            (2, "photograph", [(0, 40, 20), (1, 37, 24)]),
            (4, "vector", [0, 0]),
        ],
        [JPEGS[0], raw],
    )
    beton = Beton(path)
    assert beton.labels.tolist() == [7, 3]
    assert beton.sizes.tolist() == [[20, 40], [24, 37]]
    assert beton.read(0) == JPEGS[0]
    np.testing.assert_array_equal(beton.decode(1), IMAGES[1])
    assert beton.decode(1).flags.writeable
    with pytest.raises(RawRecordError, match=r"f\.beton\[1\] is stored as pixels"):
        beton.read(1)


def test_without_an_integer_field_images_are_unlabelled(tmp_path, build):
    beton = Beton(build(tmp_path / "f.beton", [(2, "x", [(0, 40, 20)])], JPEGS[:1]))
    assert beton.labels.tolist() == [-1]
    assert list(beton.classes) == []


@pytest.mark.parametrize("label", [-2, 1 << 40])
def test_refuses_labels_out_of_range(tmp_path, build, label):
    path = build(tmp_path / "f.beton", [(2, "image", [(0, 40, 20)]), (1, "label", [label])], JPEGS[:1])
    with pytest.raises(ValueError, match=f"labels of .* run from {label} to {label}"):
        Beton(path)


def test_a_damaged_record_is_named_and_its_page_is_found_by_checksum(path):
    content = path.read_bytes()
    add_manifest(path, page_crc32=page_checksums(content, PAGE))
    assert Beton(path).damaged_pages() == []
    start = content.index(JPEGS[2])
    path.write_bytes(content[:start] + bytes(len(JPEGS[2])) + content[start + len(JPEGS[2]) :])
    beton = Beton(path)
    with pytest.raises(ImageError, match=r"^2\.jpg: not an image"):
        beton.decode(2)
    (damage,) = beton.damaged_pages()
    assert f"bytes {PAGE} to {len(content) - 1}" in damage
    assert "images 0 to 4" in damage


def test_checksums_need_a_manifest(path):
    with pytest.raises(ValueError, match="no manifest"):
        Beton(path).damaged_pages()


def test_a_jpeg_of_another_size_than_in_the_index_is_an_error(tmp_path, build):
    path = build(tmp_path / "f.beton", [(2, "image", [(0, 40, 21)])], JPEGS[:1])
    with pytest.raises(ImageError, match=r"20×40 .* 21×40"):
        Beton(path).decode(0)


def test_a_file_truncated_while_open_is_an_error_that_names_the_image(path):
    beton = Beton(path)
    with path.open("r+b") as file:
        file.truncate(PAGE + len(JPEGS[0]) + 5)
    assert beton.read(0) == JPEGS[0]
    with pytest.raises(ImageError, match=r"five\.beton\[1\]: .* has become shorter"):
        beton.decode(1)


WRITE_WITH_FFCV = """
import sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.rgb_image import IMAGE_MODES
from ffcv.writer import DatasetWriter

IMAGE_MODES["jpg"]  # compiled once here, not in each process of the writer
folder = sys.argv[1]
images = np.load(folder + "/images.npy")

class Images:
    def __len__(self):
        return len(images)

    def __getitem__(self, i):
        return (images[i], 2 * i) if mode != "proportion" else (2 * i, images[i])

options = {"raw": {}, "jpg": {}, "smart": {"smart_threshold": 0}, "proportion": {"compress_probability": 0.5}}
for mode, option in options.items():
    np.random.seed(0)
    fields = {"photo": RGBImageField(write_mode=mode, **option), "class": IntField()}
    if mode == "proportion":
        fields = dict(reversed(fields.items()))
    writer = DatasetWriter(f"{folder}/{mode}.beton", fields, page_size=1 << 21, num_workers=2)
    writer.from_indexed_dataset(Images(), chunksize=3)
"""


@pytest.fixture(scope="module")
def written_by_ffcv(tmp_path_factory):
    pytest.importorskip("ffcv", reason="FFCV isn't installed")
    folder = tmp_path_factory.mktemp("ffcv")
    images = np.stack([gradient(200, 300, seed) for seed in range(16)])
    np.save(folder / "images.npy", images)
    # FFCV's writer hangs after an error; a process can be given up.
    subprocess.run([sys.executable, "-c", WRITE_WITH_FFCV, str(folder)], check=True, timeout=90, capture_output=True)
    return folder, images


@pytest.mark.parametrize("mode", ["raw", "jpg", "smart", "proportion"])
def test_reads_what_ffcv_writes(written_by_ffcv, mode):
    folder, images = written_by_ffcv
    beton = Beton(folder / f"{mode}.beton")
    assert beton.labels.tolist() == list(range(0, 32, 2))
    assert beton.sizes.tolist() == [[200, 300]] * 16
    stored_as_pixels = 0
    for i, expected in enumerate(images):
        pixels = beton.decode(i)
        try:
            np.testing.assert_array_equal(pixels, decode_image(beton.read(i), ""))
            # OpenCV encodes at quality 90 with 4:2:0 chroma; these gradients come back this close.
            assert np.abs(pixels.astype(int) - expected).mean() < 2
        except RawRecordError:
            stored_as_pixels += 1
            np.testing.assert_array_equal(pixels, expected)
    assert {"raw": stored_as_pixels == 16, "proportion": 0 < stored_as_pixels < 16}.get(mode, stored_as_pixels == 0)
