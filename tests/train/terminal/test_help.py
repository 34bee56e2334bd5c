from dataclasses import dataclass, field
from pathlib import Path

import pytest

from simsiam.train.terminal.help import print_help


@dataclass(frozen=True)
class Section:
    """What a section is for."""

    share: float = 0.5
    """A share with [brackets]."""


@dataclass(frozen=True)
class Settings:
    """What the command does.

    More of it.
    """

    files: tuple[Path, ...]
    """Files."""
    section: Section = field(default_factory=Section)
    rows: tuple[str, ...] = ("a", "b")
    """Rows, which are described at such length here that a single line would never do for it."""
    dry: bool = False
    """Only say it."""
    must: int | None = field(kw_only=True)
    """Must be."""


@dataclass(frozen=True)
class Bare:
    """Do it."""


HELP = """\
usage: simsiam do FILES... --must INT|None [options]

What the command does.

More of it.

arguments
  FILES...
        Files. (required)

options
  --rows TEXT,...
        Rows, which are described at such length here that a single line
        would never do for it. (default: a,b)
  --dry, --no-dry
        Only say it. (default: False)
  --must INT|None
        Must be. (required)

section options
What a section is for.
  --section.share FLOAT
        A share with [brackets]. (default: 0.5)
"""


def test_help_says_what_each_option_takes_does_and_is_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "74")
    print_help(Settings, "simsiam do")
    assert capsys.readouterr().out == HELP


def test_defaults_of_an_instance_are_its_values_and_long_lines_are_wrapped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    print_help(Settings((), Section(0.25), rows=(), must=3), "simsiam do")
    said = capsys.readouterr().out
    assert "(default: 0.25)" in said and "(default: none)" in said and "(default: 3)" in said
    assert max(map(len, said.splitlines())) <= 100


def test_a_command_without_options_offers_none(capsys: pytest.CaptureFixture[str]) -> None:
    print_help(Bare, "simsiam bare")
    assert capsys.readouterr().out == "usage: simsiam bare\n\nDo it.\n"
