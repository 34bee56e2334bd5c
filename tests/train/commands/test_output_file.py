from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.train.commands.output_file import prepare_output


def test_the_folder_is_made_before_the_work(tmp_path: Path) -> None:
    prepare_output(tmp_path / "new" / "deeper" / "sheet.png", ".png")
    assert (tmp_path / "new" / "deeper").is_dir()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sheet.jpg", "would hold a .png under another name; give a name that ends in .png"),
        ("folder.png", "folder.png is a folder; give the name of a file"),
        ("file/sheet.png", "file can't be made (File exists); choose another place"),
        ("file/new/sheet.png", "new can't be made (Not a directory); choose another place"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError) as refusal:
        prepare_output(tmp_path / name, ".png")
    assert said in str(refusal.value)
