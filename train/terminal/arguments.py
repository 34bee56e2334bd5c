"""The arguments of a command → a call of its function or a configuration, or one sentence on what is wrong."""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from types import MappingProxyType
from typing import Annotated, Any, NoReturn, TypeVar, get_origin

import tyro
from tyro import _errors  # tyro's structured parse errors; private, so pyproject.toml names its exact version

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.suggestion import did_you_mean

Configuration = TypeVar("Configuration")

_KINDS = {
    "INT": "a whole number",
    "{None}|INT": "a whole number or None",
    "FLOAT": "a number",
    "FLOAT FLOAT": "two numbers",
    "FLOAT FLOAT FLOAT": "three numbers",
}


def call(function: Callable[..., int | None], arguments: Sequence[str], prog: str) -> int:
    """Call a function whose parameters are the options of the command `prog`; returns the exit code.

    Raises UsageError, with the nearest right name, when the arguments don't fit.
    """
    with _errors.on_parse_error(_Refusal(arguments, list(_options_of_function(function)), str)):
        return tyro.cli(function, args=list(arguments), prog=prog) or DONE


def parse(
    default: Configuration,
    arguments: Sequence[str],
    prog: str,
    *,
    flags: bool = True,
    show: Callable[[str], str] = str,
) -> Configuration:
    """Return `default`, a dataclass, with the values that the options `arguments` give.

    With `flags` a bool is switched by `--name` and `--no-name`, else given as `--name True`. Raises UsageError, with
    the nearest right name and what `show` makes of an option, when the arguments don't fit. A class attribute
    `DECLINED` of the dataclass says why there are no options of certain names; see `did_you_mean`.
    """
    kind: type[Configuration] = type(default)
    refusal = _Refusal(arguments, list(option_names(default, flags)), show, getattr(kind, "DECLINED", {}))
    with _errors.on_parse_error(refusal):
        return tyro.cli(
            kind,
            args=list(arguments),
            default=default,
            prog=prog,
            config=() if flags else (tyro.conf.FlagConversionOff,),
        )


def option_names(config: Any, flags: bool = True, prefix: str = "") -> Iterator[str]:
    """Yield the options of a dataclass as tyro names them: `--data.path`, `--batch-size`, with `flags` `--no-…`."""
    for field in dataclasses.fields(config):
        yield from _options_of(field.name, getattr(config, field.name), flags, prefix)


def _options_of_function(function: Callable[..., Any]) -> Iterator[str]:
    for parameter in inspect.signature(function).parameters.values():
        if get_origin(parameter.annotation) is not Annotated:  # tyro.conf.Positional
            yield from _options_of(parameter.name, parameter.default, flags=True)


def _options_of(name: str, default: Any, flags: bool, prefix: str = "") -> Iterator[str]:
    name = name.replace("_", "-")
    if dataclasses.is_dataclass(default):
        yield from option_names(default, flags, f"{prefix}{name}.")
        return
    yield f"--{prefix}{name}"
    if flags and isinstance(default, bool):
        yield f"--{prefix}no-{name}"


def split_at_commas(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Return the arguments with `torch,ffcv` made two, where a part is among `names`."""
    split = (argument.split(",") for argument in arguments)
    return [word for parts in split for word in ([",".join(parts)] if set(names).isdisjoint(parts) else parts)]


class _Refusal:
    """What tyro calls instead of printing a box: raises UsageError with one sentence."""

    def __init__(
        self,
        arguments: Sequence[str],
        options: Sequence[str],
        show: Callable[[str], str],
        declined: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._arguments, self._options, self._show, self._declined = arguments, options, show, declined

    def __call__(self, event: _errors.ParseErrorEvent, /) -> NoReturn:
        raise UsageError(self._unknown_option(event.prog) or self._sentence(event))

    def _unknown_option(self, prog: str) -> str | None:
        # Asked first, since tyro may take what follows a misspelt option for something else, and complain of that.
        for argument in self._arguments:
            name = argument.partition("=")[0]
            if name.startswith("--") and name.replace("_", "-") not in self._options:
                hint = did_you_mean(name, self._options, self._declined)
                return f"There is no option {name}{hint} {prog} --help lists them."
        return None

    def _sentence(self, event: _errors.ParseErrorEvent) -> str:
        match event:
            case _errors.UnrecognizedArgs():
                return f"The argument {event.tokens[0]} is one too many; see {event.prog} --help."
            case _errors.MissingArgs():
                missing = " and ".join(_name(each.arg) for each in event.missing_arguments)
                return f"{event.prog} needs {missing}; see {event.prog} --help."
            case _errors.InvalidChoice():
                name, choices = self._show(_name(event.argument)), ", ".join(event.choices)
                return f"{name} is one of {choices}, not {event.value}."
            case _errors.InstantiationFailure(argument=None):
                return event.message  # of a check of ours, in __post_init__
            case _errors.BadValue() | _errors.InstantiationFailure():
                name, kind = _name(event.argument), str(event.argument.lowered.metavar)
                given = " ".join(self._given(name, event.argument.lowered.nargs)) or "nothing"
                return f"{self._show(name)} takes {_KINDS.get(kind, kind)}, not {given}."
        return f"These arguments don't fit ({type(event).__name__}); see {event.prog} --help."

    def _given(self, name: str, count: Any) -> Sequence[str]:
        """Return the values that an option was given, at most `count`."""
        for place, argument in reversed(list(enumerate(self._arguments, start=1))):
            option, equals, value = argument.partition("=")
            if option.replace("_", "-") == name:
                following = self._arguments[place : place + count]
                return [value] if equals else list(takewhile(lambda word: not word.startswith("--"), following))
        return []


def _name(argument: Any) -> str:
    return str(argument.lowered.metavar) if argument.is_positional() else argument.lowered.name_or_flags[0]
