from pathlib import Path

import pytest
from PIL import Image

from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_source import open_source


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    return tmp_path


def test_a_folder_opens_as_image_folder(images: Path):
    source: Source = open_source(str(images))
    assert isinstance(source, ImageFolder)
    assert len(source) == 2


def test_a_tilde_stands_for_the_home_folder(images: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(images.parent))
    assert len(open_source(f"~/{images.name}")) == 2


def test_progress_reaches_the_scan(images: Path):
    calls = []
    open_source(images, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 2)]


def test_a_missing_path_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no folder or file .*/nowhere; .*\.beton"):
        open_source(tmp_path / "nowhere")


def test_a_file_other_than_a_beton_is_refused_by_name(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no images here")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        open_source(tmp_path / "notes.txt")
