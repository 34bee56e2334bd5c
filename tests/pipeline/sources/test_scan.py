import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.decode import decode_image
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.paths import printable_path
from simsiam.pipeline.sources import scan as scan_module
from simsiam.pipeline.sources.folder_walk import walk_folder
from simsiam.pipeline.sources.scan import scan
from simsiam.pipeline.sources.scan_cache import save_sizes
from tests.pipeline.images import encoded, noise, png16, raw_tiff, with_chunk, with_orientation
from tests.pipeline.wait_until import wait_until


def picture(format: str = "JPEG", size: tuple[int, int] = (30, 20), **options: Any) -> bytes:
    return encoded(noise(size[1], size[0], 3), format, **options)


def scanned(root: Path, workers: int | None = 0, cache: bool = False, progress=None):
    listing = walk_folder(root)
    sizes, reasons = scan(root, listing, workers, cache, progress)
    names = [path.decode() for path in listing.paths]
    return dict(zip(names, sizes.tolist(), strict=True)), {names[i]: reason for i, reason in reasons.items()}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
def test_sizes_are_height_and_width_of_the_decoded_pixels(tmp_path: Path, format: str):
    (tmp_path / "a.jpg").write_bytes(picture(format, (31, 17)))
    sizes, reasons = scanned(tmp_path)
    assert sizes == {"a.jpg": [17, 31]}
    assert reasons == {}


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_size_agrees_with_the_decoder_on_rotated_images(tmp_path: Path, format: str):
    data = picture(format, (31, 17), exif=with_orientation(6))
    (tmp_path / "a.jpg").write_bytes(data)
    sizes, _ = scanned(tmp_path)
    assert tuple(sizes["a.jpg"]) == decode_image(data, "a.jpg").shape[:2]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP"])
@pytest.mark.parametrize("kept", [0.6, 0.97])
def test_a_truncated_file_is_broken(tmp_path: Path, format: str, kept: float):
    data = picture(format, (100, 100))
    (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * kept)])
    sizes, reasons = scanned(tmp_path)
    assert sizes == {"cut.jpg": [0, 0]}
    assert reasons["cut.jpg"]


def test_bytes_after_the_end_of_a_jpeg_do_not_break_it(tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(picture() + b"trailing bytes of a camera")
    sizes, reasons = scanned(tmp_path)
    assert sizes == {"a.jpg": [20, 30]}
    assert reasons == {}


def test_only_the_header_of_a_complete_jpeg_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "b.png").write_bytes(picture("PNG"))
    (tmp_path / "c.gif").write_bytes(picture("GIF"))
    monkeypatch.setattr(scan_module, "decode_image", lambda *_: pytest.fail("decoded"))
    assert scanned(tmp_path)[0] == {name: [20, 30] for name in ("a.jpg", "b.png", "c.gif")}


def judged_files() -> dict[str, bytes]:
    """Files about which a header and an end say too little, good ones and broken ones."""
    deep = np.arange(24, dtype=np.uint16).reshape(4, 6, 1)
    files = {f"cut-{seed}.jpg": encoded(noise(64, 64, 3, seed=seed), quality=80)[:-2] for seed in range(40)}
    files |= {f"sixteen-bits-{bands}.png": png16(np.repeat(deep, bands, axis=2)) for bands in (1, 2, 3, 4)}
    files |= {"deep.tif": raw_tiff(deep), "float.tif": raw_tiff(deep.astype(np.float32))}
    files |= {f"bands-{n}.tif": raw_tiff(noise(4, 6, n), 2, [0] * (n - 3)) for n in (4, 6, 13)}
    files |= {"text.png": with_chunk(picture("PNG"), b"tEXt", b"k\0" + bytes(3 << 20))}
    files |= {"text-at-the-end.png": with_chunk(picture("PNG"), b"tEXt", b"k\0" + bytes(3 << 20), before=b"IEND")}
    return files | {"icon.png": encoded(noise(16, 16, 3), "ICO"), "profile.jpg": with_damaged_profile(picture())}


def with_damaged_profile(jpeg: bytes) -> bytes:
    body = b"ICC_PROFILE\0\7\1damaged"
    return jpeg[:2] + b"\xff\xe2" + (len(body) + 2).to_bytes(2) + body + jpeg[2:]


def test_the_scan_judges_as_the_decoder_does(tmp_path: Path):
    expected: dict[str, tuple[int, ...] | str] = {}
    for name, data in judged_files().items():
        (tmp_path / name).write_bytes(data)
        try:
            expected[name] = decode_image(data, name).shape[:2]
        except ImageError as error:
            expected[name] = str(error).removeprefix(f"{name}: ")
    sizes, reasons = scanned(tmp_path)
    assert {name: reasons.get(name) or tuple(size) for name, size in sizes.items()} == expected
    assert sorted(sizes.keys() - reasons.keys()) == ["profile.jpg", "text-at-the-end.png", "text.png"]


def test_each_kind_of_broken_file_gets_its_reason(tmp_path: Path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "good.jpg").write_bytes(picture())
    (tmp_path / "bomb.png").write_bytes(picture("PNG").replace(b"\0\0\0\x1e\0\0\0\x14", b"\0\0\x4e\x20\0\0\x4e\x20"))
    (tmp_path / "zero.gif").write_bytes(b"GIF89a" + bytes(7) + b";")
    sizes, reasons = scanned(tmp_path)
    assert sizes["good.jpg"] == [20, 30]
    assert reasons.keys() == {"empty.jpg", "text.jpg", "bomb.png", "zero.gif"}
    assert reasons["empty.jpg"] == "the file is empty"
    assert reasons["text.jpg"] == "not an image in any format Pillow reads"


def test_the_reason_of_a_bomb_names_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "large.png").write_bytes(picture("PNG", (30, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    assert "598" in scanned(tmp_path)[1]["large.png"]
    # Above half the limit, Pillow only warns.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert scanned(tmp_path) == ({"large.png": [20, 30]}, {})


def test_a_file_without_permission_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "b.jpg").write_bytes(picture())
    opened = Path.open

    def refuse(path: Path, *arguments):
        if path.name == "a.jpg":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    sizes, reasons = scanned(tmp_path)
    assert sizes == {"a.jpg": [0, 0], "b.jpg": [20, 30]}
    assert reasons == {"a.jpg": "Permission denied"}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "_CHUNK", 4)
    monkeypatch.setattr(scan_module, "_WORTH_A_WORKER", 1)


@pytest.mark.parametrize("workers", [0, 1, 3, None])
def test_the_result_is_the_same_for_any_number_of_workers(tmp_path: Path, small_chunks: None, workers: int | None):
    expected = {}
    for index in range(30):
        (tmp_path / f"{index:02d}.png").write_bytes(picture("PNG", (index + 1, 2 * index + 1)))
        expected[f"{index:02d}.png"] = [2 * index + 1, index + 1]
    (tmp_path / "13.png").write_bytes(b"")
    expected["13.png"] = [0, 0]
    assert scanned(tmp_path, workers) == (expected, {"13.png": "the file is empty"})


def test_few_files_start_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.jpg").write_bytes(picture())
    monkeypatch.setattr(scan_module, "ordered_map", lambda *_: pytest.fail("started workers"))
    assert scanned(tmp_path, workers=8)[0] == {"a.jpg": [20, 30]}


@pytest.mark.parametrize("workers", [0, 2])
def test_progress_rises_to_the_number_of_files(tmp_path: Path, small_chunks: None, workers: int):
    for index in range(10):
        (tmp_path / f"{index}.jpg").write_bytes(picture())
    calls = []
    scanned(tmp_path, workers, cache=True, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4, 10), (8, 10), (10, 10)]
    calls.clear()
    scanned(tmp_path, workers, cache=True, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(10, 10)]


def test_a_second_scan_opens_only_what_is_new_changed_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "broken.jpg").write_bytes(b"")
    scanned(tmp_path, cache=True)
    opened = []
    size_or_reason = scan_module._size_or_reason
    monkeypatch.setattr(scan_module, "_size_or_reason", lambda path: opened.append(path.name) or size_or_reason(path))
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").write_bytes(picture(size=(8, 9)))
    (tmp_path / "new.jpg").write_bytes(picture(size=(5, 4)))
    sizes, _ = scanned(tmp_path, cache=True)
    assert sizes == {"b.jpg": [9, 8], "broken.jpg": [0, 0], "c.jpg": [20, 30], "new.jpg": [4, 5]}
    assert opened == ["b.jpg", "broken.jpg", "new.jpg"]


def test_without_cache_nothing_is_read_or_kept(tmp_path: Path, cache_home: Path):
    (tmp_path / "a.jpg").write_bytes(picture())
    scanned(tmp_path, cache=False)
    assert list(cache_home.rglob("*")) == []
    listing = walk_folder(tmp_path)
    save_sizes(tmp_path, listing, np.array([[7, 7]], np.int32))
    assert scanned(tmp_path, cache=True)[0] == {"a.jpg": [7, 7]}
    assert scanned(tmp_path, cache=False)[0] == {"a.jpg": [20, 30]}


def test_an_interrupted_scan_keeps_what_it_found(tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch):
    for index in range(10):
        (tmp_path / f"{index}.jpg").write_bytes(picture())

    def interrupt(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scanned(tmp_path, cache=True, progress=interrupt)
    opened = []
    size_or_reason = scan_module._size_or_reason
    monkeypatch.setattr(scan_module, "_size_or_reason", lambda path: opened.append(path.name) or size_or_reason(path))
    scanned(tmp_path, cache=True)
    assert opened == ["8.jpg", "9.jpg"]


def test_a_worker_that_crashes_on_a_file_is_reported_with_its_name(
    tmp_path: Path, small_chunks: None, monkeypatch: pytest.MonkeyPatch
):
    for index in range(8):
        (tmp_path / f"{index}.jpg").write_bytes(picture())
    size_or_reason = scan_module._size_or_reason

    def crash(path: Path):
        if path.name == "5.jpg":
            os.kill(os.getpid(), signal.SIGKILL)
        return size_or_reason(path)

    monkeypatch.setattr(scan_module, "_size_or_reason", crash)
    with pytest.raises(RuntimeError, match=r"SIGKILL.*4\.jpg … 7\.jpg"):
        scanned(tmp_path, workers=2)


def test_workers_die_with_their_parent(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for index in range(16):
        (tmp_path / "images" / f"{index}.jpg").write_bytes(picture())
    program = f"""
import os, signal
from pathlib import Path
from simsiam.pipeline.sources import scan as module
from simsiam.pipeline.sources.folder_walk import walk_folder
module._CHUNK = module._WORTH_A_WORKER = 1
def hang(path):
    Path({str(tmp_path)!r}, f"pid-{{os.getpid()}}").touch()
    signal.pause()
module._size_or_reason = hang
root = Path({str(tmp_path / "images")!r})
module.scan(root, walk_folder(root), 2, False, None)
"""
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
        pids = [int(file.name[4:]) for file in tmp_path.glob("pid-*")]
        assert parent.pid not in pids
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not any(running(pid) for pid in pids))


def running(pid: int) -> bool:
    try:
        # A killed process may stay as a zombie if no init process collects it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_printable_path_escapes_only_bytes_that_are_not_utf8():
    assert printable_path("a b/日本.jpg".encode()) == "a b/日本.jpg"
    assert printable_path(b"caf\xe9.jpg") == "caf\\xe9.jpg"
