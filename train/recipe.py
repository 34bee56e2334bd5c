"""Recipes: configurations in YAML, by the name of a recipe, the path of a file or a run folder."""

from pathlib import Path
from typing import Any

import yaml

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.train.config import PretrainConfig, flatten
from simsiam.train.terminal.options import Option, build, options_of
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
    options = {option.key: option for option in options_of(PretrainConfig)}
    values = {}
    for key, value in flatten(_read_tree(file)):
        if option := options.get(key):
            values[key] = _read_value(option, value, file)
        elif value is not None or not any(known.startswith(f"{key}.") for known in options):  # `model:` may be empty
            hint = did_you_mean(key, options, PretrainConfig.DECLINED)
            raise UsageError(f"There is no key {key} in {file}{hint}")
    try:
        return build(PretrainConfig, values)
    except UsageError as error:
        raise UsageError(f"In {file}: {error}") from None


def _read_value(option: Option, value: Any, file: Path) -> Any:
    """Return a value of YAML, read by the rules of the command line."""
    if isinstance(value, bool) and "off" in option.kind.choices:  # YAML reads a bare on or off as a bool
        value = "on" if value else "off"
    if isinstance(value, list) and option.kind.length is None:
        raise UsageError(f"In {file}: {option.key} takes one value, not the list {value}.")
    try:
        return option.read(list(map(str, value if isinstance(value, list) else [value])), option.key)
    except UsageError as error:
        raise UsageError(f"In {file}: {error}") from None


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
