"""Arguments of a command → its settings, a dataclass; or one sentence on what is wrong.

Weighed were tyro (the wording of its errors can be changed through a private module alone), jsonargparse (no `--no-…`,
no dashes in names), a parser of our own (40 % more lines) and cyclopts. cyclopts reads every type here, hands out the
parts of each mistake, and takes a recipe's values as tokens that it reads as it reads words: one set of rules for both.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import cyclopts
from cyclopts import App, Argument, ArgumentCollection, CoercionError, MissingArgumentError, UnknownOptionError

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.train.config import flatten
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.help import HelpFormatter, shown
from simsiam.train.terminal.options import command_of
from simsiam.train.terminal.suggestion import did_you_mean

Settings = TypeVar("Settings")
Config = Callable[[App, tuple[str, ...], ArgumentCollection], None]


def parse(settings: type[Settings] | Settings, arguments: Sequence[str], prog: str) -> Settings:
    """Return the settings that the arguments of the command `prog` come to.

    `settings` is a dataclass, or an instance whose values are the defaults. A bool is switched by `--name` and
    `--no-name`; the values of a tuple are joined by commas, or given as so many words if its length is fixed; an
    option's name may have underscores for dashes; of an option given twice the last one counts.

    Raises UsageError, with the nearest right name, when the arguments don't fit; SystemExit once help is printed. A
    class attribute `DECLINED` of the dataclass says why there are no options of certain names; see `did_you_mean`.
    """
    owner: type[Settings] = settings if isinstance(settings, type) else type(settings)
    _offered.clear()
    _offered.update(name for argument in _known(owner) if argument.show for name in argument.names)
    defaults = {} if isinstance(settings, type) else asdict(settings)  # pyright: ignore[reportArgumentType]
    if not {"-h", "--help"}.isdisjoint(arguments):
        app = _app(owner, prog)
        app.help_formatter = HelpFormatter(dict(flatten(defaults)))
        app.help_print([])
        raise SystemExit(DONE)
    return read(owner, arguments, prog, defaults, "the defaults")


_offered: set[str] = set()
"""Names of the options of the command that runs."""


def option_for(argument: str | None) -> str | None:
    """Return the option of the command that runs for an error's `argument`, such as `run_dir` or `resume=auto`.

    None if it has no such option: the same error may come from another command.
    """
    name, equals, value = (argument or "").partition("=")
    option = f"--{name.replace('_', '-')}"
    return f"{option}{equals}{value}" if option in _offered else None


def read(owner: type[Settings], arguments: Sequence[str], prog: str, tree: Mapping[str, Any], source: str) -> Settings:
    """Return the settings that arguments come to, with the values of a tree, such as a recipe, for what is not given.

    Both are read by the same rules. Raises UsageError as `parse` does; what is wrong with the tree is told of `source`.
    """
    app = _app(owner, prog, _values(owner, tree, source), _check)
    known = _known(owner)
    try:
        _, bound, _ = app.parse_args(_split_at_commas(arguments, known), print_error=False, exit_on_error=False)
    except cyclopts.CycloptsError as error:
        raise UsageError(_sentence(error, known, owner, prog)) from None
    bound.apply_defaults()
    return owner(**bound.arguments)


@functools.cache  # it takes as long as all else
def _known(owner: type) -> ArgumentCollection:
    """Return the options there are, for looking up; what is parsed has arguments of its own."""
    return _app(owner, "").assemble_argument_collection()


def _app(owner: type, prog: str, *config: Config) -> App:
    app = App(
        name=prog,
        help=inspect.getdoc(owner),
        help_format="markdown",
        help_flags=(),
        version_flags=(),
        group_arguments=cyclopts.Group("arguments", sort_key=-2),
        group_parameters=cyclopts.Group("options", sort_key=-1),
        default_parameter=cyclopts.Parameter(allow_repeating=True, negative_iterable=(), show_default=shown),
        config=config,
    )
    app.default(command_of(owner))
    return app


def _split_at_commas(arguments: Sequence[str], known: ArgumentCollection) -> list[str]:
    """Make a word of each value of a tuple of fixed length: `--x a,b` and `--x=a,b` → `--x a b`."""
    words = []
    for name, word in pairwise(["", *arguments]):
        option = known.get(word.partition("=")[0] if word.startswith("--") else name, None)
        words += word.split(",") if option and option.token_count()[0] > 1 else [word]
    return words


def _values(owner: type, tree: Mapping[str, Any], source: str) -> Config:
    """Return a configuration of cyclopts: values for the options that are not given."""

    def add(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        by_key = {argument.name[2:].replace("-", "_"): argument for argument in arguments if argument.show}
        for key, value in flatten(tree):
            argument = by_key.get(key)
            if argument is None:
                if value is None and any(known.startswith(f"{key}.") for known in by_key):  # `model:` may be empty
                    continue
                hint = did_you_mean(key, by_key, getattr(owner, "DECLINED", {}))
                raise UsageError(f"There is no key {key} in {source}{hint}")
            if isinstance(value, bool) and "off" in (argument.get_choices() or ()):  # YAML reads on and off as a bool
                value = "on" if value else "off"
            if isinstance(value, list) and argument.token_count()[0] < 2:
                raise UsageError(f"In {source}: {key} takes one value, not the list {value}.")
            if not argument.tokens:
                for index, each in enumerate((value or [""]) if isinstance(value, list | tuple) else [value]):
                    argument.append(cyclopts.Token(keyword=key, value=str(each), source=source, index=index))

    return add


def _check(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Read `None` and `~`; refuse what cyclopts would round (1.5 as an int), or misread (no path as `.`)."""
    for argument in arguments:
        kinds = {argument.hint, *get_args(argument.hint)}
        for index, token in enumerate(list(argument.tokens)):
            if argument.children:
                raise UnknownOptionError(token=token, argument_collection=arguments)
            if token.value == "None" and NoneType in kinds:
                argument.append(token.evolve(implicit_value=None))
            elif (int in kinds and not re.fullmatch(r"[+-]?\d+", token.value)) or (Path in kinds and not token.value):
                raise CoercionError(token=token, argument=argument, target_type=argument.resolved_hint)
            elif Path in kinds:
                argument.tokens[index] = token.evolve(value=str(expand_home(token.value)))
    if missing := arguments.filter_by(missing=True):
        raise MissingArgumentError(msg=" and ".join(argument.name for argument in missing))


def _sentence(error: cyclopts.CycloptsError, known: ArgumentCollection, owner: type, prog: str) -> str:
    names = [name for argument in known if argument.show for name in argument.names]
    # A misspelt option may be why a value is missing or seems wrong.
    words = [word for word in error.unused_tokens or () if re.match(r"--|-[a-zA-Z]", word)]
    if isinstance(error, UnknownOptionError):
        words.append(error.token.keyword or error.token.value)
    written = [word.partition("=")[0] for word in words]
    if unknown := next((word for word in written if word.replace("_", "-") not in names), None):
        hint = did_you_mean(unknown, names, getattr(owner, "DECLINED", {}))
        return f"There is no option {unknown}{hint} {prog} --help lists them."
    match error:
        case MissingArgumentError(msg=str(missing)):
            return f"{prog} needs {missing}; see {prog} --help."
        case MissingArgumentError(argument=Argument() as argument):
            count = argument.token_count()[0]
            return f"{error.keyword} needs {count} value{'s' * (count > 1)}, not {len(error.tokens_so_far)}."
        case cyclopts.UnusedCliTokensError(unused_tokens=[extra, *_], root_input_tokens=[*given]):
            before = known.get(given[given.index(extra) - 2], None)
            several = before and before.token_count()[1]
            advice = f"join the values of {before.name} by commas" if before and several else f"see {prog} --help"
            return f"The argument {extra} is one too many; {advice}."
        case CoercionError(token=None, argument=Argument() as argument):
            source = argument.tokens[0].source
            return f"{argument.name}" + (f" from {source}" if source != "cli" else "") + f": {error}"
    return str(error)
