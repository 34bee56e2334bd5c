"""Options of a dataclass: one for each field, with the field's type, default and docstring.

A field that is a dataclass itself is a section: its options have its name as a prefix (`--data.path`), or none where
the field's metadata is `INLINE`. A field without a default is an argument by position, unless it is keyword-only: then
it is a required option.
"""

import ast
import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, NamedTuple, TypeVar, get_type_hints

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.value_kind import ValueKind, kind_of

Settings = TypeVar("Settings")

INLINE = {"inline": True}
"""Metadata of a section whose options have no prefix: `--quality` instead of `--how.quality`."""


@dataclass(frozen=True)
class Option:
    """A field of a dataclass, as an option or an argument by position."""

    key: str
    """Dotted path of the field: `data.path`."""
    kind: ValueKind
    default: Any
    """MISSING where a value must be given."""
    positional: bool
    section: str
    """Prefix of the key: `data`; empty at the top."""
    owner: type
    """The dataclass that has the field."""

    @property
    def name(self) -> str:
        """What the user writes: `--batch-size`; `SOURCE` for an argument by position."""
        return self.key.upper() if self.positional else f"--{self.key.replace('_', '-')}"

    @property
    def names(self) -> tuple[str, ...]:
        """All names that it can be given by."""
        return (self.name, self.off_name) if self.off_name else (self.name,)

    @property
    def off_name(self) -> str | None:
        """The name that switches a bool off: `--log.no-tensorboard`; None where the option takes a value."""
        section, dot, last = self.name[2:].rpartition(".")
        return f"--{section}{dot}no-{last}" if self.kind.choices == ("True", "False") else None

    @property
    def help(self) -> str:
        """The docstring under the field."""
        return field_docstrings(self.owner).get(self.key.rpartition(".")[2], "")

    def read(self, words: Sequence[str], name: str | None = None) -> Any:
        """Return the value that `words` mean; raises UsageError, which calls the option `name`."""
        length, given = self.kind.length, words
        if length is not None and not self.positional:
            words = [part for word in words for part in word.split(",")]
        fits = len(words) == (length or 1) or (length == 0 and (len(words) > 1 or self.positional))
        values = []
        try:
            for word in words:
                given = [word] if length == 0 else words  # what a refusal quotes
                values.append(self.kind.read(word))
        except (ValueError, KeyError):
            fits = False
        if not fits:
            raise UsageError(f"{name or self.name} {self.kind.expected}, not {' '.join(given) or 'nothing'}.")
        return values[0] if length is None else tuple(values)


def options_of(settings: Any, prefix: str = "", section: str = "") -> Iterator[Option]:
    """Yield the options of a dataclass, with the fields' defaults, or of an instance, with its values as defaults."""
    for field, annotation, default in _fields(settings):
        if not dataclasses.is_dataclass(annotation):
            positional = default is MISSING and not field.kw_only
            yield Option(prefix + field.name, kind_of(annotation), default, positional, section, _class_of(settings))
        elif field.metadata == INLINE:
            yield from options_of(default, prefix, section)
        else:
            yield from options_of(default, f"{prefix}{field.name}.", prefix + field.name)


def build(settings: type[Settings] | Settings, values: Mapping[str, Any], prefix: str = "") -> Settings:
    """Return an instance with `values`, by the options' keys, and with the defaults for all others.

    Raises UsageError where a `__post_init__` does.
    """
    chosen = {}
    for field, annotation, default in _fields(settings):
        if dataclasses.is_dataclass(annotation):
            inner = prefix if field.metadata == INLINE else f"{prefix}{field.name}."
            chosen[field.name] = build(default, values, inner)
        else:
            chosen[field.name] = values.get(prefix + field.name, default)
    return _class_of(settings)(**chosen)


class _Field(NamedTuple):
    field: dataclasses.Field
    annotation: Any
    default: Any


def _fields(settings: Any) -> Iterator[_Field]:
    annotations = get_type_hints(_class_of(settings))
    for field in dataclasses.fields(settings):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if not isinstance(settings, type):
            default = getattr(settings, field.name)
        yield _Field(field, annotations[field.name], default)


def _class_of(settings: Any) -> type:
    return settings if isinstance(settings, type) else type(settings)


@functools.cache
def field_docstrings(owner: type) -> dict[str, str]:
    """Return the string under each field of a dataclass, inherited ones included.

    Python keeps no docstrings of fields, so they are read from the source.
    """
    found: dict[str, str] = {}
    for each in reversed(owner.__mro__[:-1]):
        (definition,) = ast.parse(inspect.cleandoc(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for statement, following in zip(definition.body, definition.body[1:], strict=False):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = inspect.cleandoc(text)
    return found
