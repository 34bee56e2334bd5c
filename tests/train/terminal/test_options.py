from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from cyclopts import App

from simsiam.train.field_docstrings import field_docstrings
from simsiam.train.terminal.options import INLINE, command_of


@dataclass(frozen=True)
class Inner:
    """A section."""

    loud: bool = True
    """How
    loud."""
    size: tuple[int, int] = (1, 2)


@dataclass(frozen=True)
class Quality:
    quality: int = 90
    """Of JPEGs."""


@dataclass(frozen=True)
class Base:
    UNITS: ClassVar[str] = "no option"
    """Of nothing."""
    source: Path
    """From."""
    to: Path = field(kw_only=True)
    kind: Literal["a", "b"] = "a"
    """First."""


@dataclass(frozen=True)
class Settings(Base):
    some_name: str = "x"
    inner: Inner = field(default_factory=Inner)
    how: Quality = field(default=Quality(), metadata=INLINE)
    kind: Literal["a", "b"] = "b"
    """Again."""


@dataclass(frozen=True)
class Differs:
    how: Quality = field(default=Quality(80), metadata=INLINE)


def test_each_field_is_an_option() -> None:
    app = App()
    app.default(command_of(Settings))
    arguments = [argument for argument in app.assemble_argument_collection() if argument.show]
    assert {argument.name: argument.required for argument in arguments} == {
        "SOURCE": True,
        "--to": True,
        "--kind": False,
        "--some-name": False,
        "--inner.loud": False,
        "--inner.size": False,
        "--quality": False,
    }
    assert [argument.name for argument in arguments if argument.index is not None] == ["SOURCE"]


def test_help_is_the_docstring_of_the_nearest_class() -> None:
    helps = field_docstrings(Settings)
    assert (helps["source"], helps["kind"], field_docstrings(Inner)["loud"]) == ("From.", "Again.", "How\nloud.")


def test_a_section_has_the_defaults_of_its_class() -> None:
    with pytest.raises(AssertionError, match="how"):
        command_of(Differs)
