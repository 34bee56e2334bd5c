import ast
import pickle
from pathlib import Path

import pytest

from simsiam.pipeline.errors import ReportedError, RunError, UsageError

ROOT = Path(__file__).parent.parent.parent
FILES = sorted(file.relative_to(ROOT) for folder in ("pipeline", "train") for file in (ROOT / folder).rglob("*.py"))


def plain_errors(source: str) -> list[int]:
    """Return the lines with an error that the command line would mistake for a defect."""
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("ValueError", "RuntimeError")
    )


@pytest.mark.parametrize("file", FILES, ids=str)
def test_errors_for_the_user_are_of_our_classes(file: Path) -> None:
    assert plain_errors((ROOT / file).read_text()) == [], (
        "raise UsageError or RunError of simsiam.pipeline.errors instead"
    )


def test_plain_error_is_seen() -> None:
    assert plain_errors("if x:\n    raise ValueError(x)\nerror = RuntimeError('no')\nraise UsageError(x)") == [2, 3]


@pytest.mark.parametrize("kind", [UsageError, RunError])
def test_the_argument_that_would_help_survives_pickling(kind: type[ReportedError]) -> None:
    error = pickle.loads(pickle.dumps(kind("o.beton exists", argument="overwrite")))
    assert (str(error), error.argument) == ("o.beton exists", "overwrite")
    assert kind("o.beton exists").argument is None
