from pathlib import Path

import pytest

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.beton.verify import verify
from simsiam.pipeline.open_crops import open_crops
from simsiam.pipeline.paths import PathList, expand_home, printable_path
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.sources.open_source import open_source


def test_a_tilde_is_the_home_folder_and_an_unknown_user_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert expand_home("~/a") == Path("/h/a") == expand_home(Path("~/a"))
    for path in ("~no-such-user/a", "a/~/b", "a~"):
        assert expand_home(path) == Path(path)


def test_every_function_that_takes_a_path_knows_the_home_folder(
    pictures: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder, out = f"~/{pictures.root.name}", "~/new/p.beton"
    assert convert(open_records(folder), out, workers=1).path == tmp_path / "new" / "p.beton"
    assert len(open_source(folder)) == len(open_source(out)) == len(Beton(out)) == len(ImageFolder(folder)) == 11
    assert verify(out, workers=1).whole
    with open_crops(folder, 8, 5, device="cpu", workers=0, backend="torch") as loader:
        assert len(loader) == 2


def test_paths_are_kept_and_printed_whatever_their_bytes() -> None:
    paths = [b"a", b"", b"\xff/b"]
    assert (list(PathList(paths)), PathList(paths)[-1]) == (paths, b"\xff/b")
    assert printable_path(b"\xff/\xc3\xa4") == "\\xff/ä"
