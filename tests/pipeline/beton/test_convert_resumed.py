"""Conversions that were killed, and went on."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.writer import BetonWriter

COUNT = 240
BROKEN = (0, 7, 60, 61, 239)


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
        file = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 256, (240, 240 + index % 5, 3), np.uint8)
        Image.fromarray(pixels).save(file, "JPEG", quality=99, subsampling="4:4:4")
        return file.getvalue()


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_convert_resumed import Noise
from simsiam.pipeline.beton.convert import convert
def wait(done, total):
    if done == int(sys.argv[3]):
        print("there", flush=True)
        time.sleep(60)
convert(Noise(), sys.argv[1], workers=2, progress=wait)
"""


def kill_at(done: int, out: Path) -> None:
    """Start the conversion and kill it with SIGKILL when `done` images are done."""
    command = [sys.executable, "-c", SCRIPT, str(out), str(Path(__file__).parent), str(done)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        process.send_signal(signal.SIGKILL)


def convert_when_free(out: Path, images: Noise | None = None, **options):
    """Convert once the killed one's workers, which hold its lock, have gone."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return convert(images or Noise(), out, **options)
        except ValueError as error:
            if "Another conversion" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


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
def test_after_a_kill_the_same_call_goes_on_and_gives_the_same_bytes(tmp_path, uninterrupted, done):
    out = tmp_path / "o.beton"
    kill_at(done, out)
    assert names(tmp_path) == ["o.beton.part", *["o.beton.part.journal"] * (done > 45)]
    calls = []
    report = convert_when_free(out, workers=1, progress=lambda *call: calls.append(call))
    # All but the last, incomplete page.
    assert done - 45 < report.taken_over <= done
    assert (report.taken_over > 0) == (done > 45)
    assert calls == [(i, COUNT) for i in range(report.taken_over + 1, COUNT + 1)]
    assert [name for name, _ in report.skipped] == [f"noise {i}" for i in BROKEN]
    assert same(out, uninterrupted)
    assert names(tmp_path) == ["o.beton", "o.beton.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError, OSError])
def test_whatever_ended_it_the_same_call_goes_on(tmp_path, uninterrupted, error):
    out = tmp_path / "o.beton"

    def interrupt(done: int, total: int) -> None:
        if done == 130:
            raise error

    with pytest.raises(error) as caught:
        convert(Noise(), out, workers=2, progress=interrupt)
    (note,) = caught.value.__notes__
    assert f"{out}.part" in note
    assert names(tmp_path) == ["o.beton.part", "o.beton.part.journal"]
    # An interruption while it looks at what there is costs nothing.
    with pytest.raises(error), pytest.MonkeyPatch.context() as patch:
        patch.setattr("simsiam.pipeline.beton.writer.read_exactly", lambda *_: (_ for _ in ()).throw(error))
        convert(Noise(), out, workers=2)
    assert convert(Noise(), out, workers=2).taken_over > 80
    assert same(out, uninterrupted)
    assert names(tmp_path) == ["o.beton", "o.beton.json"]


def test_two_kills_are_survived_as_one(tmp_path, uninterrupted):
    out = tmp_path / "o.beton"
    kill_at(70, out)
    time.sleep(0.5)
    kill_at(190, out)
    assert convert_when_free(out, workers=2).taken_over > 120
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
            lambda part, journal: journal.write_bytes(journal.read_bytes().replace(b"journal 2", b"journal 1", 1)),
            "its journal is damaged or of another version",
        ),
        (lambda part, journal: journal.unlink(), ""),
    ],
    ids=["part cut", "part damaged", "no part", "journal cut", "journal empty", "other format", "no journal"],
)
def test_what_a_power_cut_may_leave_is_not_trusted(tmp_path, uninterrupted, damage, reason):
    out = tmp_path / "o.beton"
    kill_at(190, out)
    time.sleep(0.3)
    damage(tmp_path / "o.beton.part", tmp_path / "o.beton.part.journal")
    with warnings.catch_warnings(record=True) as told:
        convert_when_free(out, workers=2)
    assert [str(warning.message).rpartition(": ")[2].rstrip(".") for warning in told] == [reason] * bool(reason)
    assert same(out, uninterrupted)
    assert names(tmp_path) == ["o.beton", "o.beton.json"]


def test_where_the_journal_cannot_be_written_the_pages_before_are_gone_on_with(tmp_path, uninterrupted, monkeypatch):
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


def test_an_image_that_can_be_read_again_is_not_left_out(tmp_path, monkeypatch, uninterrupted):
    out = tmp_path / "o.beton"
    kill_at(190, out)
    images = Noise()
    good = images.read(59)
    monkeypatch.setattr(images, "read", lambda index: good if index == 60 else Noise().read(index))
    report = convert_when_free(out, images, workers=2)
    # The first page, of which images 0 and 7 are still broken, is taken over; the second is written anew.
    assert 8 <= report.taken_over <= 60
    assert [name for name, _ in report.skipped] == [f"noise {i}" for i in BROKEN if i != 60]
    assert len(Beton(out)) == COUNT - len(BROKEN) + 1
    whole = tmp_path / "whole.beton"
    convert(images, whole, workers=2)
    assert same(out, whole)


def test_an_image_left_out_for_another_reason_by_now_is_reported_so(tmp_path, monkeypatch):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    images = Noise()
    monkeypatch.setattr(images, "read", lambda index: b"" if index == 7 else Noise().read(index))
    report = convert_when_free(out, images, workers=2)
    assert report.taken_over > 80
    assert dict(report.skipped)["noise 7"] == "the file is empty"


def test_a_first_page_that_cannot_be_kept_starts_over_and_says_why(tmp_path, monkeypatch):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    images = Noise()
    monkeypatch.setattr(images, "read", lambda index: Noise().read(8 if index == 7 else index))
    with pytest.warns(UserWarning, match=r"Starting over, .*o\.beton .*can be read now"):
        assert convert_when_free(out, images, workers=2).taken_over == 0


def test_other_settings_start_over(tmp_path):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    with pytest.warns(UserWarning, match="Starting over, since .*: the settings changed in between"):
        assert convert_when_free(out, workers=2, quality=80, reencode=True).taken_over == 0
    assert Beton(out).damaged_pages() == []


@pytest.mark.parametrize(
    ("what", "value", "told"),
    [
        ("name_prefix", "/another/folder/", "the place of the images changed"),
        ("files_hash", "of changed files", "the files' sizes or dates changed"),
        ("classes", ("a", "b", "d"), "the images' names or classes changed"),
    ],
)
def test_a_set_in_another_place_or_with_a_changed_file_starts_over(tmp_path, what, value, told):
    out = tmp_path / "o.beton"
    kill_at(130, out)
    other = Noise()
    setattr(other, what, value)
    with pytest.warns(UserWarning, match=told):
        assert convert_when_free(out, other, workers=2).taken_over == 0


def test_a_writer_that_cannot_ask_takes_over_what_was_left_out(tmp_path):
    out, jpeg = tmp_path / "o.beton", Noise().read(1)
    with pytest.raises(RuntimeError), BetonWriter(out, 99, journal_key={"a": "b"}) as writer:
        writer.skip("broken")
        for _ in range(60):
            writer.append(jpeg, 240, 241, 0)
        raise RuntimeError
    with BetonWriter(out, 99, journal_key={"a": "b"}) as writer:
        assert (writer.position > 20, writer.skipped, writer.started_over) == (True, [(0, "broken")], "")


def test_a_writer_without_a_key_leaves_no_journal_behind(tmp_path):
    (tmp_path / "o.beton.part.journal").write_text("old")
    with BetonWriter(tmp_path / "o.beton", 1) as writer:
        writer.append(b"\xff\xd8", 1, 1, 0)
        writer.finish()
    assert names(tmp_path) == ["o.beton"]
