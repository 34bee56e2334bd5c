from pathlib import Path

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.file_pattern import expand, is_pattern
from simsiam.pipeline.sources.open_records import open_records


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("a-*.tar", [["a-0.tar", "a-1.tar"]]),
        ("{b,a}-*.tar", [["b-0.tar"], ["a-0.tar", "a-1.tar"]]),
        ("a-{1..0}.tar", [["a-1.tar"], ["a-0.tar"]]),
        ("a-{08..10}.tar", [["a-08.tar"], ["a-09.tar"], ["a-10.tar"]]),
        ("*", [["a-0.tar", "a-1.tar", "b-0.tar", "d"]]),
        (".*", [[".h.tar"]]),
        ("?/x.tar", [["d/x.tar"]]),
        ("**/x.tar", [["d/x.tar"]]),
        ("{d,e}/*.tar", [["d/x.tar"], []]),
        ("none", [["none"]]),
        ("none-*", [[]]),
    ],
)
def test_a_pattern_is_expanded_as_by_a_shell(tmp_path: Path, pattern: str, found: list[list[str]]) -> None:
    for name in ("a-0.tar", "a-1.tar", "b-0.tar", ".h.tar", "d/x.tar", "d/.x.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert expand(tmp_path / pattern) == [[tmp_path / name for name in one] for one in found]
    assert is_pattern(Path(pattern)) == (pattern != "none")


def test_a_wildcard_over_the_folders_of_splits_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.tar").touch()
    with pytest.raises(UsageError, match=f"give one of them: {tmp_path}/train, {tmp_path}/val"):
        open_records(tmp_path / "*" / "0.tar")
