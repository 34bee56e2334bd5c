import json
from pathlib import Path

import pytest
from PIL import Image

from simsiam.train.commands.verify import run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGB", (20, 30)).save(folder / "good.jpg")
    return folder


def test_a_whole_set_is_exit_code_0(folder, capsys):
    assert run([str(folder)], "simsiam verify") == 0
    assert "1 images decoded" in capsys.readouterr().out


def test_a_broken_image_is_listed_written_as_json_and_exit_code_1(folder, tmp_path, capsys):
    (folder / "bad [1].jpg").write_text("text")
    assert run([str(folder), "--json", str(tmp_path / "found.json")], "simsiam verify") == 1
    assert "bad [1].jpg: not an image in any format Pillow reads" in capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["images"] == 2
    assert [entry["name"] for entry in found["broken"]] == [str(folder / "bad [1].jpg")]
