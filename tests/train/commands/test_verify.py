import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.manifest import manifest_path
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.sources.open_records import open_records
from simsiam.train.commands.verify import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "cats").mkdir(parents=True)
    Image.new("RGB", (20, 30)).save(folder / "good.jpg")
    Image.new("RGB", (30, 20)).save(folder / "cats" / "good.jpg")
    return folder


@pytest.fixture
def beton(folder: Path, tmp_path: Path) -> Path:
    convert(open_records(folder), tmp_path / "set.beton", workers=1)
    return tmp_path / "set.beton"


def test_a_whole_set_is_exit_code_0(folder, capsys):
    assert run([str(folder)], "simsiam verify") == 0
    out = capsys.readouterr().out
    assert out.startswith("2 images in 1 class, ")
    assert "images/s): 0 broken" in out and "checksum" not in out


def test_a_broken_image_is_listed_written_as_json_and_exit_code_1(folder, tmp_path, capsys):
    (folder / "bad [1].jpg").write_text("text")
    assert run([str(folder), "--json", str(tmp_path / "found.json")], "simsiam verify") == 1
    name, reason = str(folder / "bad [1].jpg"), "not an image in any format Pillow reads"
    first, summary = capsys.readouterr().out.splitlines()
    assert first == f"broken: {name}: {reason}"
    assert summary.endswith(f": 1 broken; 2 of one colour, the first {folder / 'cats' / 'good.jpg'}")
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("seconds") > 0 and found.pop("images_per_second") > 0
    assert found == {
        "path": str(folder),
        "whole": False,
        "images": 3,
        "classes": 1,
        "broken": [{"name": name, "reason": reason}],
        "damaged": [],
        "one_colour": [str(folder / "cats" / "good.jpg"), str(folder / "good.jpg")],
        "checksums": None,
    }
    assert not list(tmp_path.glob("*.part"))


def test_a_name_with_a_newline_stays_on_one_line(folder, tmp_path, capsys):
    (folder / "two\nlines \x1b[1m é.jpg").write_text("text")
    assert run([str(folder), "--json", str(tmp_path / "found.json")], "simsiam verify") == 1
    first, _ = capsys.readouterr().out.splitlines()
    assert first.startswith(f"broken: {folder}/two\\nlines \\x1b[1m é.jpg: ")
    (entry,) = json.loads((tmp_path / "found.json").read_text())["broken"]
    assert entry["name"] == str(folder / "two\nlines \x1b[1m é.jpg")


def test_a_damaged_page_is_listed_and_exit_code_1(beton, tmp_path, capsys):
    with beton.open("r+b") as file:
        file.seek(Beton(beton).records.offsets.min() - 1)  # the fill before the first record
        file.write(b"\7")
    assert run([str(beton), "--json", str(tmp_path / "found.json")], "simsiam verify") == 1
    damage, summary = capsys.readouterr().out.splitlines()
    assert damage.startswith(f"damaged: {beton}: bytes ")
    assert "1 damaged page; every byte was compared with the manifest's checksums" in summary
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["whole"], found["checksums"]) == (False, True)
    assert found["damaged"] == [damage.removeprefix("damaged: ")]


def test_the_summary_says_whether_there_were_checksums(beton, capsys):
    assert run([str(beton)], "simsiam verify") == 0
    assert "every byte was compared" in capsys.readouterr().out
    manifest_path(beton).unlink()
    assert run([str(beton)], "simsiam verify") == 0
    assert "there is no manifest" in capsys.readouterr().out


@pytest.mark.parametrize(("what", "code"), [("half.beton", 1), ("nowhere", 2)])
def test_a_beton_cut_short_and_a_wrong_path_are_told_in_one_sentence(beton, tmp_path, what, code):
    (tmp_path / "half.beton").write_bytes(beton.read_bytes()[: beton.stat().st_size // 2])
    command = [sys.executable, "-m", "simsiam.train.cli", "verify", str(tmp_path / what)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    told = done.stdout if code == 1 else done.stderr
    assert str(tmp_path / what) in told and len(told.splitlines()) == (2 if code == 1 else 1)
