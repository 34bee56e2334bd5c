import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(file.relative_to(ROOT) for folder in ("pipeline", "train") for file in (ROOT / folder).rglob("*.py"))


def untold(source: str) -> list[int]:
    """Return the lines that make an error which the command line would take for a defect."""
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("ValueError", "RuntimeError")
    )


@pytest.mark.parametrize("file", FILES, ids=str)
def test_what_is_raised_for_the_user_is_told_in_one_sentence(file: Path) -> None:
    assert untold((ROOT / file).read_text()) == [], "raise UsageError or RunError of simsiam.pipeline.errors instead"


def test_plain_error_is_seen() -> None:
    assert untold("if x:\n    raise ValueError(x)\nerror = RuntimeError('no')\nraise UsageError(x)") == [2, 3]
