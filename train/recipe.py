"""Recipes: configurations in YAML, by the name of a recipe, the path of a file or a run folder."""

from pathlib import Path
from typing import Any

import yaml

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.train.config import PretrainConfig
from simsiam.train.terminal.arguments import read
from simsiam.train.terminal.suggestion import did_you_mean

_RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(file.stem for file in _RECIPES.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """Return the YAML file of a recipe name, of a path to a YAML file, or of a run folder.

    Raises UsageError, naming the nearest recipe, when there is none.
    """
    path = expand_home(name)
    if (path / "config.yaml").is_file():
        return path / "config.yaml"
    if path.is_file() and path.suffix in (".yaml", ".yml"):
        return path
    if name in recipe_names():
        return _RECIPES / f"{name}.yaml"
    raise UsageError(
        f"There is no recipe, YAML file or run folder {name}{did_you_mean(name, recipe_names())}"
        f" The recipes are {', '.join(recipe_names())}."
    )


def load_config(file: Path) -> PretrainConfig:
    """Return the configuration in a YAML file; what the file doesn't name has its default.

    Raises UsageError, which names the file and the key, for unknown keys and wrong values.
    """
    tree = _read_tree(file)
    try:
        return read(PretrainConfig, [], str(file), tree, source=str(file))
    except UsageError as error:
        raise error if str(file) in str(error) else UsageError(f"In {file}: {error}") from None


def _read_tree(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{file} is not valid YAML, line {line}: {error.problem}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{file} must hold keys and values, as the recipes do.")
    return tree
