from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.output_file import check_output


def test_a_folder_that_is_yet_to_be_made_is_good_and_not_made_yet(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "deeper" / "sheet.png", ".png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sheet.jpg", "would hold a .png under another name; give a name that ends in .png"),
        ("folder.png", "folder.png is a folder; give the name of a file"),
        ("file/sheet.png", "file is a file; choose another"),
        ("file/new/sheet.png", "file is a file; choose another"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError) as refusal:
        check_output(tmp_path / name, ".png")
    assert said in str(refusal.value)
