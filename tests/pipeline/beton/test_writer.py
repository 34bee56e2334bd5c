import errno
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton.layout import ALLOCATION, HEADER, SMALLEST_PAGE_SIZE
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.writer import BetonWriter, RecordTooLarge
from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import UsageError
from tests.pipeline.images import encoded, noise

PAGE = SMALLEST_PAGE_SIZE


def jpeg(seed: int, size: int = 0) -> bytes:
    """A JPEG of 48×64 pixels, padded to `size` bytes."""
    picture = Image.fromarray(noise(6, 8, 3, seed=seed)).resize((64, 48), Image.Resampling.BICUBIC)
    return encoded(picture, quality=90).ljust(size, b"\1")


def write(path: Path, images: list[bytes], overwrite: bool = False) -> None:
    with BetonWriter(path, len(images), page_size=PAGE, overwrite=overwrite) as writer:
        for label, image in enumerate(images):
            writer.append(image, 48, 64, label)
        writer.finish()


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_record_never_crosses_a_page_and_none_is_lost(tmp_path):
    path = tmp_path / "f.beton"
    images = [jpeg(i, size) for i, size in enumerate([900_000, 900_000, 900_000, PAGE, 10_000, PAGE - 10_000, 5_000])]
    write(path, images)
    header = np.fromfile(path, HEADER, 1)[0]
    assert (header["version"], header["num_fields"], header["page_size"]) == (2, 2, PAGE)
    table = np.fromfile(path, ALLOCATION, offset=int(header["alloc_table_ptr"]))
    assert table["sample_id"].tolist() == list(range(7))
    assert table["size"].tolist() == [len(image) for image in images]
    pages = table["ptr"] // PAGE
    assert pages.tolist() == [1, 1, 2, 3, 4, 4, 5]
    assert ((table["ptr"] + table["size"] - 1) // PAGE == pages).all()
    beton = Beton(path)
    assert [beton.read(i) for i in range(7)] == images


def test_checksums_cover_every_byte(tmp_path):
    path = tmp_path / "f.beton"
    with BetonWriter(path, 3, page_size=PAGE) as writer:
        for i in range(3):
            writer.append(jpeg(i, 1_500_000), 48, 64, i)
        sealed = writer.finish()
    content = path.read_bytes()
    assert sealed.file_bytes == len(content)
    assert sealed.page_crc32 == [zlib.crc32(content[i : i + PAGE]) for i in range(0, len(content), PAGE)]
    assert len(sealed.page_crc32) == 4


def test_fewer_images_than_the_capacity_are_fine_and_more_are_refused(tmp_path):
    path = tmp_path / "f.beton"
    with BetonWriter(path, 200_000, page_size=PAGE) as writer:
        writer.append(jpeg(0), 48, 64, -1)
        writer.finish()
    assert Beton(path).labels.tolist() == [-1]
    with BetonWriter(tmp_path / "g.beton", 1) as writer:
        writer.append(jpeg(0), 48, 64, 0)
        with pytest.raises(ValueError, match="opened for 1 images"):
            writer.append(jpeg(0), 48, 64, 0)


def test_while_it_is_written_the_temporary_file_reads_as_unfinished(tmp_path):
    with BetonWriter(tmp_path / "f.beton", 2, page_size=PAGE) as writer:
        writer.append(jpeg(0, PAGE), 48, 64, 0)
        writer.append(jpeg(1), 48, 64, 0)
        assert names(tmp_path) == ["f.beton.part"]
        with pytest.raises(ValueError, match="unfinished"):
            Beton(tmp_path / "f.beton.part")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_exception_there_is_no_file(tmp_path, error):
    with pytest.raises(error), BetonWriter(tmp_path / "f.beton", 1) as writer:
        writer.append(jpeg(0), 48, 64, 0)
        writer.seal()
        raise error
    assert names(tmp_path) == []


def test_without_finish_there_is_no_file(tmp_path):
    with BetonWriter(tmp_path / "f.beton", 1) as writer:
        writer.append(jpeg(0), 48, 64, 0)
    assert names(tmp_path) == []
    with pytest.raises(ValueError, match="is closed"):
        writer.finish()


def test_a_failed_replacement_keeps_the_old_file(tmp_path):
    path = tmp_path / "f.beton"
    write(path, [jpeg(0)])
    before = path.read_bytes()
    with pytest.raises(RuntimeError), BetonWriter(path, 1, overwrite=True) as writer:
        writer.append(jpeg(1), 48, 64, 0)
        raise RuntimeError
    assert path.read_bytes() == before
    assert names(tmp_path) == ["f.beton"]


def test_an_existing_file_is_replaced_only_on_request(tmp_path):
    path = tmp_path / "f.beton"
    write(path, [jpeg(0)])
    with pytest.raises(UsageError, match="exists") as caught:
        BetonWriter(path, 1)
    assert caught.value.argument == "overwrite"
    write(path, [jpeg(1)], overwrite=True)
    assert Beton(path).read(0) == jpeg(1)


def test_a_second_writer_is_refused_and_a_stale_temporary_file_overwritten(tmp_path):
    path, part = tmp_path / "f.beton", tmp_path / "f.beton.part"
    part.write_bytes(b"\1" * 3 * PAGE)
    with BetonWriter(path, 1, page_size=PAGE) as writer:
        with pytest.raises(ValueError, match="Another conversion is writing"):
            BetonWriter(path, 1)
        writer.append(jpeg(0), 48, 64, 0)
        writer.finish()
    assert Beton(path).read(0) == jpeg(0)
    assert path.stat().st_size < 2 * PAGE


def test_a_record_larger_than_a_page_is_refused_and_the_next_is_written(tmp_path):
    path = tmp_path / "f.beton"
    with BetonWriter(path, 2, page_size=PAGE) as writer:
        with pytest.raises(RecordTooLarge, match=f"{PAGE + 1} bytes is larger than a page of {PAGE}"):
            writer.append(jpeg(0, PAGE + 1), 48, 64, 0)
        writer.append(jpeg(1), 48, 64, 5)
        writer.finish()
    assert Beton(path).labels.tolist() == [5]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((b"\x89PNG", 48, 64, 0), "no JPEG"),
        ((jpeg(0), 0, 64, 0), "0×64 pixels"),
        ((jpeg(0), 48, 65536, 0), "48×65536 pixels"),
    ],
)
def test_refuses_what_the_format_cannot_store(tmp_path, arguments, reason):
    with BetonWriter(tmp_path / "f.beton", 1) as writer, pytest.raises(ValueError, match=reason):
        writer.append(*arguments)


@pytest.mark.parametrize("page_size", [PAGE // 2, PAGE + 1, 1 << 32])
def test_refuses_a_page_size_ffcv_cannot_read(tmp_path, page_size):
    with pytest.raises(ValueError, match="power of two"):
        BetonWriter(tmp_path / "f.beton", 1, page_size=page_size)


def test_refuses_a_folder_no_images_and_no_capacity(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        BetonWriter(tmp_path, 1)
    with pytest.raises(ValueError, match="at least one image"):
        BetonWriter(tmp_path / "f.beton", 0)
    with BetonWriter(tmp_path / "f.beton", 1) as writer, pytest.raises(ValueError, match="no image to write"):
        writer.finish()


def test_refuses_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="Can't create"):
        BetonWriter(tmp_path / "none" / "f.beton", 1)


def fill_disk(path: Path) -> OSError:
    with pytest.raises(OSError, match="after") as caught, BetonWriter(path, 9, page_size=PAGE) as writer:
        for i in range(9):
            writer.append(jpeg(i, 1_500_000), 48, 64, i)
        writer.finish()
    return caught.value


def test_on_a_full_disk_there_is_no_file(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        error = fill_disk(disk / "f.beton")
        assert error.errno == errno.ENOSPC
        assert "free some space" in str(error)
        assert names(disk) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_beyond_a_file_size_limit_there_is_no_file(tmp_path):
    resource = pytest.importorskip("resource", reason="this system knows no limits of files")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, before[1]))
    try:
        error = fill_disk(tmp_path / "f.beton")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.errno == errno.EFBIG
    assert names(tmp_path) == []


READ_WITH_FFCV = """
import sys
import numpy as np
from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv.libffcv import imdecode
from ffcv.loader import Loader, OrderOption
from ffcv.reader import Reader

folder = sys.argv[1]
pipelines = {"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]}
loader = Loader(
    folder + "/f.beton", batch_size=5, num_workers=1, order=OrderOption.SEQUENTIAL, pipelines=pipelines, os_cache=False,
    drop_last=False,
)
# The loader reuses its buffers.
batches = [(image.copy(), label.copy()) for image, label in loader]
images, labels = (np.concatenate(parts) for parts in zip(*batches))
decoded = np.zeros_like(images)
for i in range(len(decoded)):
    encoded = np.fromfile(f"{folder}/{i}.jpg", np.uint8)
    imdecode(encoded, decoded[i], 48, 64, 48, 64, 0, 0, 1, 1, False, False)
metadata = Reader(folder + "/sizes.beton").metadata
np.savez(
    folder + "/read.npz", images=images, labels=labels[:, 0], decoded=decoded,
    height=metadata["f0"]["height"], width=metadata["f0"]["width"], label=metadata["f1"],
)
"""


@pytest.fixture(scope="module")
def read_by_ffcv(tmp_path_factory):
    pytest.importorskip("ffcv", reason="FFCV isn't installed")
    folder = tmp_path_factory.mktemp("ffcv")
    images = [jpeg(i, 700_000 if i % 3 == 0 else 0) for i in range(12)]
    for i, image in enumerate(images):
        (folder / f"{i}.jpg").write_bytes(image)
    write(folder / "f.beton", images)
    with BetonWriter(folder / "sizes.beton", 9) as writer:
        writer.append(jpeg(0), 48, 64, 3)
        writer.append(jpeg(1), 300, 500, -1)
        writer.finish()
    # FFCV's Loader hangs after an error; a process can be given up.
    subprocess.run([sys.executable, "-c", READ_WITH_FFCV, str(folder)], check=True, timeout=110, capture_output=True)
    return images, np.load(folder / "read.npz")


def test_ffcv_loads_the_same_images_and_labels_in_the_same_order(read_by_ffcv):
    images, read = read_by_ffcv
    assert read["labels"].tolist() == list(range(12))
    np.testing.assert_array_equal(read["images"], read["decoded"])
    for i, image in enumerate(images):
        # FFCV decodes with libjpeg-turbo's fast, less exact DCT; Pillow with the exact one. Measured on these
        # images: at most 5, on average 1.1 of 255.
        difference = np.abs(read["images"][i].astype(int) - decode_image(image, ""))
        assert difference.max() <= 8
        assert difference.mean() < 1.5


def test_ffcv_reads_the_same_sizes_and_labels(read_by_ffcv):
    _, read = read_by_ffcv
    assert read["height"].tolist() == [48, 300]
    assert read["width"].tolist() == [64, 500]
    assert read["label"].tolist() == [3, -1]
