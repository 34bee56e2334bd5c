"""Options of a dataclass, as a command of cyclopts: one for each field, with its type, default and docstring.

A field that is a dataclass itself is a section: its options have its name as a prefix (`--data.path`), or none where
the field's metadata is `INLINE`. A field without a default is an argument by position, unless it is keyword-only: then
it is a required option.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter
from typing import Annotated, Any, get_args, get_type_hints

import cyclopts

from simsiam.train.field_docstrings import field_docstrings

INLINE = {"inline": True}
"""Metadata of a section whose options have no prefix: `--quality` instead of `--how.quality`."""


def command_of(owner: type) -> Callable[..., None]:
    """Return a function that does nothing and takes the fields of a dataclass: cyclopts reads the options off it."""

    def command(*_: Any, **__: Any) -> None: ...

    hints, helps, parameters = get_type_hints(owner), field_docstrings(owner), []
    for field in fields(owner):
        hint, kind, details = (
            hints[field.name],
            Parameter.KEYWORD_ONLY,
            cyclopts.Parameter(help=helps.get(field.name)),
        )
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING:
            default, kind = Parameter.empty, kind if field.kw_only else Parameter.POSITIONAL_ONLY
        if is_dataclass(hint):
            # Of a section that is given in part, cyclopts takes the rest from its class.
            assert isinstance(hint, type) and default in (Parameter.empty, hint()), (
                f"{field.name} differs from its class"
            )
            group = cyclopts.Group(f"{field.name} options", help=inspect.getdoc(hint) or "", sort_key=len(parameters))
            details = cyclopts.Parameter(name="*") if field.metadata == INLINE else cyclopts.Parameter(group=group)
        elif Ellipsis in get_args(hint) and kind is Parameter.POSITIONAL_ONLY:
            hint, kind = get_args(hint)[0], Parameter.VAR_POSITIONAL
        elif Ellipsis in get_args(hint):
            hint = Annotated[hint, cyclopts.Parameter(converter=_read_joined)]
        parameters.append(Parameter(field.name, kind, default=default, annotation=Annotated[hint, details]))
    command.__signature__ = inspect.Signature(sorted(parameters, key=lambda each: each.kind))  # pyright: ignore
    return command


def _read_joined(hint: Any, tokens: Sequence[cyclopts.Token]) -> Any:
    """Read a tuple of any length, `a,b`; if it was given twice, the last one."""
    last = max(at for at, token in enumerate(tokens) if token.index == 0)
    words = [token.evolve(value=part) for token in tokens[last:] for part in token.value.split(",")]
    return cyclopts.convert(hint, words)
