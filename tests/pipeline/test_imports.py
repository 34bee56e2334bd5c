"""Who may import whom within the pipeline."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PREFIX = "simsiam."


def imports_of(file: Path) -> set[str]:
    """Return the files of the pipeline that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PREFIX + "pipeline"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            paths = [Path(*name.removeprefix(PREFIX).split(".")).with_suffix(".py") for name in names if name]
            found |= {path.as_posix() for path in paths if (ROOT / path).exists()}
    return found


GRAPH = {file.relative_to(ROOT).as_posix(): imports_of(file) for file in sorted((ROOT / "pipeline").rglob("*.py"))}


@pytest.mark.parametrize("folder", ["loaders", "sources", "beton"])
def test_what_is_opened_does_not_know_what_opens_it(folder: str) -> None:
    openers = {f"pipeline/{name}.py" for name in ("loaders/open_loader", "sources/open_source", "open_crops")}
    inside = {file: imports for file, imports in GRAPH.items() if file.startswith(f"pipeline/{folder}/")}
    assert inside
    assert {file: imports & openers for file, imports in inside.items() if imports & openers} == {}


def test_no_backend_knows_another_one() -> None:
    backends = {file for file in GRAPH if file.endswith("_loader.py") and "open_" not in file}
    assert len(backends) >= 5
    known = {file: GRAPH[file] & backends for file in backends}
    assert {file: others for file, others in known.items() if others} == {}
