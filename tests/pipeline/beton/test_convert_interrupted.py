import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.writer import BetonWriter
from tests.pipeline.beton.memory_records import MemoryRecords
from tests.pipeline.images import encoded
from tests.pipeline.wait_until import wait_until


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def source(count: int) -> MemoryRecords:
    return MemoryRecords([encoded(Image.new("RGB", (80, 60), "red"), "PNG")] * count)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_within_the_first_page_leaves_no_file_and_no_process(tmp_path, error):
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise error

    with pytest.raises(error) as caught:
        convert(source(20), tmp_path / "o", workers=2, progress=interrupt)
    assert names(tmp_path) == []
    # The traceback keeps the generator that owns the workers alive: it must have been closed.
    assert caught.tb is not None
    assert multiprocessing.active_children() == []


class Deadly(MemoryRecords):
    """Kills the process that reads image 5."""

    def read(self, index: int) -> bytes:
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


def test_a_killed_worker_is_an_error_that_names_the_image(tmp_path):
    with pytest.raises(RuntimeError, match=r"died of signal SIGKILL.*dir/5\.png"):
        convert(Deadly(source(20).images), tmp_path / "o", workers=2)
    assert names(tmp_path) == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_rename_keeps_the_older_file(tmp_path, monkeypatch, error):
    convert(source(3), tmp_path / "o", workers=1)
    before = {name: (tmp_path / name).read_bytes() for name in ("o", "o.json")}
    monkeypatch.setattr(BetonWriter, "finish", lambda self: (_ for _ in ()).throw(error("crash")))
    with pytest.raises(error, match="crash"):
        convert(source(2), tmp_path / "o", workers=1, overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    with pytest.raises(error, match="crash"):
        convert(source(2), tmp_path / "new", workers=1)
    assert names(tmp_path) == ["o", "o.json"]


def test_a_crash_between_the_two_renames_never_opens_silently(tmp_path, monkeypatch):
    convert(source(3), tmp_path / "o", workers=1)
    # As after a power cut, nothing cleans up.
    monkeypatch.setattr(BetonWriter, "finish", lambda self: self.part.unlink())
    convert(source(2), tmp_path / "o", workers=1, overwrite=True)
    with pytest.raises(ValueError, match=r"manifest .* belongs to another file"):
        Beton(tmp_path / "o")


def test_an_error_after_the_rename_leaves_the_new_file_with_its_manifest(tmp_path, monkeypatch):
    convert(source(3), tmp_path / "o", workers=1)
    monkeypatch.setattr("simsiam.pipeline.beton.writer.sync_folder", lambda _: (_ for _ in ()).throw(OSError("late")))
    with pytest.raises(OSError, match="late"):
        convert(source(2), tmp_path / "o", workers=1, overwrite=True)
    assert len(Beton(tmp_path / "o")) == 2


@contextlib.contextmanager
def script(tmp_path: Path, read: str, options: str = ""):
    """A process that converts 400 images of noise, with `read` at the start of the source's method of that name."""
    code = f"""
import io, signal, sys, resource
import numpy as np
from PIL import Image
from simsiam.pipeline.beton.convert import convert
class Noise:
    classes, broken, name_prefix, files_hash, labels = [], [], "", "", np.full(400, -1)
    def __len__(self): return 400
    def name(self, index): return f"noise {{index}}"
    def read(self, index):
        {read}
        image = Image.fromarray(np.random.default_rng(index).integers(0, 256, (300, 300, 3), np.uint8))
        image.save(file := io.BytesIO(), "PNG", compress_level=1)
        return file.getvalue()
{options}
convert(Noise(), sys.argv[1] + "/o", workers=2, progress=lambda done, total: print(done, flush=True))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends processes with their parent")
def test_killing_the_parent_ends_the_workers_and_leaves_no_complete_file(tmp_path):
    shared_before = set(names(Path("/dev/shm")))
    with script(tmp_path, read="if index > 15: signal.pause()") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not any(running(pid) for pid in workers))
    assert names(tmp_path) == ["o.part"]  # no page was full
    assert not [name for name in set(names(Path("/dev/shm"))) - shared_before if name.startswith(("psm_", "sem."))]
    # The conversion of another set starts over.
    convert(source(2), tmp_path / "o", workers=1)
    assert names(tmp_path) == ["o", "o.json"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)])
def test_a_signal_that_raises_cleans_up(tmp_path, number, code):
    # Processes started by a background job of a shell ignore SIGINT.
    handler = "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    handler += "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))"
    with script(tmp_path, "if index > 15: signal.pause()", handler) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        workers = children(process.pid)
        # A terminal sends Ctrl-C to all processes of the command at once.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == code
        assert not any(running(pid) for pid in workers)
    assert names(tmp_path) == []


def test_on_a_full_disk_there_is_no_file(tmp_path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (9 << 20, 9 << 20))"
    with script(tmp_path, "pass", limit) as process:
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 1
    assert "Can't write" in errors
    assert "free some space" in errors
    assert names(tmp_path) == []  # there was room for less than a page of images


def test_on_a_full_disk_complete_pages_are_kept_and_resumed_when_there_is_room(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with script(disk, "pass") as process:
            _, errors = process.communicate(timeout=30)
            assert process.returncode == 1
        assert "No space left on device" in errors
        assert "free some space" in errors
        assert f"is kept in {disk}/o.part" in errors
        assert names(disk) == ["o.part", "o.part.journal"]
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        with script(disk, "pass") as process:
            done, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (0, "")
        assert int(done.split()[0]) > 1
        assert Beton(disk / "o").damaged_pages() == []
    finally:
        subprocess.run(["umount", disk], check=True)
