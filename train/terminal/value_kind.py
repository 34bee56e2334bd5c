"""Kind of value that an option takes: how help shows it, how a refusal names it, how a word is read."""

from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import expand_home

_NUMERALS = {1: "one", 2: "two", 3: "three", 4: "four"}


class ValueKind(NamedTuple):
    """A type, as the command line and YAML see it."""

    metavar: str
    """What stands for a value in help: `INT`."""
    one: str
    """Follows "takes" in a refusal: `a whole number`; empty for a choice."""
    many: str
    """Follows "takes two": `whole numbers`."""
    read: Callable[[str], Any]
    """Returns the value that a word means; raises ValueError or KeyError."""
    choices: tuple[str, ...] = ()
    """All words there are, if they can be listed."""
    length: int | None = None
    """Values in a tuple, 0 for any number; None for a single value."""

    @property
    def expected(self) -> str:
        """The end of a sentence that names the option: `takes two numbers`, `is one of auto, cpu, cuda`."""
        if self.choices:
            return f"is one of {', '.join(self.choices)}" + (", or several of them" if self.length == 0 else "")
        return f"takes {_NUMERALS.get(self.length, self.length)} {self.many}" if self.length else f"takes {self.one}"


def _path(word: str) -> Path:
    if not word:
        raise UsageError("A path has at least one character.")
    return expand_home(word)


_PLAIN = {
    int: ValueKind("INT", "a whole number", "whole numbers", int),
    float: ValueKind("FLOAT", "a number", "numbers", float),
    str: ValueKind("TEXT", "a text", "texts", str),
    Path: ValueKind("PATH", "a path", "paths", _path),
}


def kind_of(annotation: Any) -> ValueKind:
    """Return the kind of int, float, str, Path, bool, Literal, of one of them or None, or of a tuple of one of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        (item,) = {each for each in arguments if each is not Ellipsis}
        kind, length = kind_of(item), 0 if Ellipsis in arguments else len(arguments)
        metavar = ",".join([kind.metavar] * length) if length else f"{kind.metavar},..."
        return kind._replace(metavar=metavar, length=length)
    if origin in (Union, UnionType):
        (item,) = (each for each in arguments if each is not NoneType)
        kind = kind_of(item)
        return kind._replace(
            metavar=f"{kind.metavar}|None",
            one=f"{kind.one} or None",
            read=lambda word: None if word == "None" else kind.read(word),
            choices=(*kind.choices, "None") if kind.choices else (),
        )
    if annotation is bool or origin is Literal:
        values = {str(value): value for value in arguments or (True, False)}
        return ValueKind(f"{{{','.join(values)}}}", "", "", values.__getitem__, tuple(values))
    return _PLAIN[annotation]
