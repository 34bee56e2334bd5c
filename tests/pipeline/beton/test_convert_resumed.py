"""Conversions that were killed, and resumed."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.transcode import Transcoding
from simsiam.pipeline.beton.writer import BetonWriter
from simsiam.pipeline.decode import decode_image
from tests.pipeline.images import encoded, noise
from tests.pipeline.wait_until import wait_until

COUNT = 240
BROKEN = (0, 7, 60, 61, 239)
PLAIN = (3, 63)
"""Images of one colour."""


class Noise:
    """JPEGs of noise of 200 kB, about 40 to a page of 8 MiB; some are broken."""

    classes: Sequence[str] = ("a", "b", "c")
    broken: Sequence[tuple[str, str]] = ()
    name_prefix = ""
    files_hash = ""
    labels = np.arange(COUNT) % 3

    def __len__(self) -> int:
        return COUNT

    def name(self, index: int) -> str:
        return f"noise {index}"

    def read(self, index: int) -> bytes:
        if index in BROKEN:
            return b"broken"
        if index in PLAIN:
            return encoded(np.full((20, 20, 3), 9, np.uint8))
        return encoded(noise(240, 240 + index % 5, 3, seed=index), quality=99, subsampling="4:4:4")

    def decode(self, index: int) -> np.ndarray:
        return decode_image(self.read(index), self.name(index))


SCRIPT = """
import signal, sys
sys.path.insert(0, sys.argv[2])
from test_convert_resumed import Noise
from simsiam.pipeline.beton.convert import convert
def wait(done, total):
    if done == int(sys.argv[3]):
        print("there", flush=True)
        signal.pause()
convert(Noise(), sys.argv[1], workers=2, progress=wait)
"""


def kill_at(done: int, out: Path) -> None:
    """Start the conversion, kill it with SIGKILL when `done` images are done, and wait until its workers are gone."""
    command = [sys.executable, "-c", SCRIPT, str(out), str(Path(__file__).parent), str(done)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_locked(Path(f"{out}.part")))


def is_locked(part: Path) -> bool:
    """Return whether a writer, or a worker that was forked from it, has the file open."""
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "o.beton"
    assert convert(Noise(), out, workers=2).taken_over == 0
    return out


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def same(out: Path, expected: Path) -> bool:
    return all(
        Path(f"{out}{ending}").read_bytes() == Path(f"{expected}{ending}").read_bytes() for ending in ("", ".json")
    )


@pytest.mark.parametrize("done", [30, 64, 239])
def test_after_a_kill_the_same_call_resumes_and_gives_the_same_bytes(tmp_path, uninterrupted, done):
    out = tmp_path / "o.beton"
    kill_at(done, out)
    assert names(tmp_path) == ["o.beton.part", *["o.beton.part.journal"] * (done > 45)]
    calls = []
    report = convert(Noise(), out, workers=1, progress=lambda *call: calls.append(call))
    # All but the last, incomplete page.
    assert done - 45 < report.taken_over <= done
    assert (report.taken_over > 0) == (done > 45)
    assert calls == [(i, COUNT) for i in range(report.taken_over + 1, COUNT + 1)]
    assert [name for name, _ in report.skipped] == [f"noise {i}" for i in BROKEN]
    assert [name for name, _ in report.remarks] == [f"noise {i}" for i in PLAIN]
    assert same(out, uninterrupted)
    assert names(tmp_path) == ["o.beton", "o.beton.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, OSError])
def test_after_any_exception_the_same_call_resumes(tmp_path, uninterrupted, error):
    out = tmp_path / "o.beton"

    def interrupt(done: int, total: int) -> None:
        if done == 130:
            raise error

    with pytest.raises(error) as caught:
        convert(Noise(), out, workers=2, progress=interrupt)
    (note,) = caught.value.__notes__
    assert f"{out}.part" in note
    assert names(tmp_path) == ["o.beton.part", "o.beton.part.journal"]
    # An interruption while it resumes loses nothing.
    with pytest.raises(error), pytest.MonkeyPatch.context() as patch:
        patch.setattr("simsiam.pipeline.beton.writer.read_exactly", lambda *_: (_ for _ in ()).throw(error))
        convert(Noise(), out, workers=2)
    assert convert(Noise(), out, workers=2).taken_over > 80
    assert same(out, uninterrupted)
    assert names(tmp_path) == ["o.beton", "o.beton.json"]


def test_a_conversion_killed_twice_resumes(tmp_path, uninterrupted):
    out = tmp_path / "o.beton"
    kill_at(70, out)
    kill_at(190, out)
    assert convert(Noise(), out, workers=2).taken_over > 120
    assert same(out, uninterrupted)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda part, journal: part.write_bytes(part.read_bytes()[: 20 << 20]), ""),
        (
            lambda part, journal: part.write_bytes(part.read_bytes().replace(b"\xff\xda", b"\xff\xdb")),
            "its pages are damaged",
        ),
        (lambda part, journal: part.unlink(), "its pages are damaged"),
        (lambda part, journal: journal.write_bytes(journal.read_bytes()[:-100]), ""),
        (lambda part, journal: journal.write_bytes(b"\0" * 1000), "its journal is damaged or of another version"),
        (
            lambda part, journal: journal.write_bytes(journal.read_bytes().replace(b"journal 3", b"journal 1", 1)),
            "its journal is damaged or of another version",
        ),
        (lambda part, journal: journal.unlink(), ""),
    ],
    ids=["part cut", "part damaged", "no part", "journal cut", "journal empty", "other format", "no journal"],
)
def test_damage_by_a_power_cut_is_noticed(tmp_path, uninterrupted, damage, reason):
    out = tmp_path / "o.beton"
    kill_at(190, out)
    damage(tmp_path / "o.beton.part", tmp_path / "o.beton.part.journal")
    with warnings.catch_warnings(record=True) as caught:
        convert(Noise(), out, workers=2)
    assert [str(warning.message).rpartition(": ")[2].rstrip(".") for warning in caught] == [reason] * bool(reason)
    assert same(out, uninterrupted)
    assert names(tmp_path) == ["o.beton", "o.beton.json"]


def test_where_the_journal_cannot_be_written_the_pages_before_are_resumed(tmp_path, uninterrupted, monkeypatch):
    out, write, lines = tmp_path / "o.beton", os.write, iter(range(99))

    def fill_the_disk(file: int, line: bytes) -> int:
        if next(lines) == 2:
            write(file, line[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, line)

    monkeypatch.setattr("simsiam.pipeline.beton.journal.os.write", fill_the_disk)
    with pytest.raises(OSError, match=f"Can't write {out}: No space left .* free some space"):
        convert(Noise(), out, workers=2)
    monkeypatch.undo()
    assert 60 < convert(Noise(), out, workers=2).taken_over < 100
    assert same(out, uninterrupted)


def test_an_image_that_can_be_read_again_is_not_skipped(tmp_path, monkeypatch, uninterrupted):
    out = tmp_path / "o.beton"
    kill_at(190, out)
    images = Noise()
    good = images.read(59)
    monkeypatch.setattr(images, "read", lambda index: good if index == 60 else Noise().read(index))
    report = convert(images, out, workers=2)
    # The first page, of which images 0 and 7 are still broken, is kept; the second one is written again.
    assert 8 <= report.taken_over <= 60
    assert [name for name, _ in report.skipped] == [f"noise {i}" for i in BROKEN if i != 60]
    assert len(Beton(out)) == COUNT - len(BROKEN) + 1
    whole = tmp_path / "whole.beton"
    convert(images, whole, workers=2)
    assert same(out, whole)


def test_an_image_that_is_broken_otherwise_by_now_is_reported_so(tmp_path, monkeypatch):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    images = Noise()
    monkeypatch.setattr(images, "read", lambda index: b"" if index == 7 else Noise().read(index))
    report = convert(images, out, workers=2)
    assert report.taken_over > 80
    assert dict(report.skipped)["noise 7"] == "the file is empty"


def test_a_first_page_that_cannot_be_kept_is_a_new_start_with_a_reason(tmp_path, monkeypatch):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    images = Noise()
    monkeypatch.setattr(images, "read", lambda index: Noise().read(8 if index == 7 else index))
    with pytest.warns(UserWarning, match=r"Starting over, .*o\.beton .*can be read now"):
        assert convert(images, out, workers=2).taken_over == 0


def test_other_settings_start_over(tmp_path):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    with pytest.warns(UserWarning, match="Starting over, since .*: the settings changed in between"):
        assert convert(Noise(), out, Transcoding(quality=80, reencode=True), workers=2).taken_over == 0
    assert Beton(out).damaged_pages() == []


@pytest.mark.parametrize(
    ("what", "value", "reason"),
    [
        ("name_prefix", "/another/folder/", "the place of the images changed"),
        ("files_hash", "of changed files", "the files' sizes or dates changed"),
        ("classes", ("a", "b", "d"), "the images' names or classes changed"),
    ],
)
def test_a_moved_or_changed_set_starts_over(tmp_path, what, value, reason):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    other = Noise()
    setattr(other, what, value)
    with pytest.warns(UserWarning, match=reason):
        assert convert(other, out, workers=2).taken_over == 0


def test_without_a_check_skipped_images_stay_skipped(tmp_path):
    out, jpeg = tmp_path / "o.beton", Noise().read(1)
    with pytest.raises(RuntimeError), BetonWriter(out, 99, journal_key={"a": "b"}) as writer:
        writer.skip("broken")
        for _ in range(60):
            writer.append(jpeg, 240, 241, 0)
        raise RuntimeError
    with BetonWriter(out, 99, journal_key={"a": "b"}) as writer:
        assert (writer.position > 20, writer.skipped, writer.started_over) == (True, [(0, "broken")], "")


def test_a_writer_without_a_key_removes_an_old_journal(tmp_path):
    (tmp_path / "o.beton.part.journal").write_text("old")
    with BetonWriter(tmp_path / "o.beton", 1) as writer:
        writer.append(b"\xff\xd8", 1, 1, 0)
        writer.finish()
    assert names(tmp_path) == ["o.beton"]
