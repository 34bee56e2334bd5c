"""The name of a recipe, a YAML file or a run folder → the configuration it holds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from simsiam.pipeline.errors import UsageError
from simsiam.train.config import PretrainConfig, flatten, to_tree
from simsiam.train.terminal.arguments import option_names, parse
from simsiam.train.terminal.suggestion import did_you_mean

_RECIPES = Path(__file__).parent / "recipes"


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(file.stem for file in _RECIPES.glob("*.yaml"))


def recipe_file(name: str) -> Path:
    """Return the YAML file of a recipe name, of a path to a YAML file, or of a run folder.

    Raises UsageError, naming the nearest recipe, when there is none.
    """
    path = Path(name).expanduser()
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
    """Read a YAML file.

    Raises UsageError, which names the file and the key, for unknown keys and wrong values.
    """
    default = PretrainConfig()
    settings = dict(flatten(_read_tree(file)))
    keys = [_key(option) for option in option_names(default, flags=False)]
    for key, value in settings.items():
        if key not in keys and not (value is None and any(known.startswith(f"{key}.") for known in keys)):  # `model:`
            raise UsageError(f"There is no key {key} in {file}{did_you_mean(key, keys, default.DECLINED)}")
    lists = dict(flatten(to_tree(default)))
    for key, value in settings.items():
        if isinstance(value, list) and key in keys and not isinstance(lists[key], list):
            raise UsageError(f"In {file}: {key} takes one value, not the list {value}.")
    # The YAML goes through the same parser as the command line, so it is checked the same way.
    options = [word for key, value in settings.items() if key in keys for word in _option(key, value)]
    try:
        return parse(default, options, prog=str(file), flags=False, show=_key)
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


def _key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def _option(key: str, value: Any) -> Iterator[str]:
    yield f"--{key}"
    yield from map(str, value if isinstance(value, list) else [value])
