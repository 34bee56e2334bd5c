import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The one of kernels/ teaches by files that one would add.
READMES = [ROOT / folder / "README.md" for folder in ("", "pipeline", "model", "train")]


def missing_files(readme: Path) -> list[str]:
    """Return the Python files that a README names, in backquotes or as a link, and that don't exist."""
    named = re.findall(r"`([\w/.-]+\.py)`|\]\(([\w/.-]+\.py)\)", readme.read_text())
    files = {code or link for code, link in named}
    return sorted(
        name
        for name in files
        if not re.search(r"[A-Z]{3}", name)
        and not any((folder / name).exists() for folder in (readme.parent, ROOT))
        and ("/" in name or readme.parent == ROOT or not list(readme.parent.rglob(name)))
        and not (name.startswith("test_") and list((ROOT / "tests").rglob(name)))
    )


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: str(readme.relative_to(ROOT)))
def test_files_that_a_readme_names_exist(readme: Path) -> None:
    assert missing_files(readme) == []


def test_missing_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("`gone.py`, [b](b.py), `NAME_loader.py`")
    (tmp_path / "b.py").touch()
    assert missing_files(tmp_path / "README.md") == ["gone.py"]
