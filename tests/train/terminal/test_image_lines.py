from pathlib import Path

import pytest
from PIL import Image

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.manifest import manifest_path
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.terminal.image_lines import image_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, an image of one colour, and a broken one."""
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        Image.linear_gradient("L").save(folder / f"{number}.png")
    Image.new("RGB", (20, 30)).save(folder / "plain.png")
    (folder / "broken.png").write_bytes(b"x")
    return folder


def test_of_a_folder_it_is_said_that_headers_were_read_and_what_a_few_images_show(folder: Path) -> None:
    first, second = image_lines(open_source(folder), folder)
    assert first.startswith(f"Images: 4 in {folder}, 1 broken one skipped") and "simsiam verify decodes" in first
    assert "1 of 4 " in second
    (folder / "plain.png").unlink()
    assert len(list(image_lines(open_source(folder), folder))) == 1


def test_of_a_beton_the_manifest_counts_and_without_it_a_few_images_do(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "set.beton"
    convert(open_source(folder), out, workers=1)
    first, second = image_lines(open_source(out), out)
    assert first == f"Images: 4 in {out}"
    assert "1 of 4, " in second and "manifest" in second
    manifest_path(out).unlink()
    _, second = image_lines(open_source(out), out)
    assert "1 of 4 " in second and "decoded" in second
