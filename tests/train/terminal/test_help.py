from dataclasses import dataclass, field
from pathlib import Path

import pytest

from simsiam.train.terminal.arguments import parse


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
    """Rows."""
    dry: bool = False
    """Only say it."""
    must: int | None = field(kw_only=True)
    """Must be."""


@dataclass(frozen=True)
class Bare:
    """Do it."""


def said(settings: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the help's lines, without frames and with single spaces."""
    monkeypatch.setenv("COLUMNS", "90")
    with pytest.raises(SystemExit):
        parse(settings, ["--help"], "simsiam do")
    return [" ".join(line.strip("│╭╮╰╯─ ").split()) for line in capsys.readouterr().out.splitlines()]


def test_help_says_what_each_option_takes_does_and_is_by_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in said(Settings, monkeypatch, capsys) if line]
    assert lines == [
        "Usage: simsiam do --must INT [OPTIONS] [ARGS...]",
        "What the command does.",
        "More of it.",
        "arguments",
        "FILES Files.",
        "options",
        "--rows STR... Rows. [default: a,b]",
        "--dry --no-dry Only say it. [default: False]",
        "* --must INT Must be. [required]",
        "section options",
        "What a section is for.",
        "--section.share FLOAT A share with [brackets]. [default: 0.5]",
    ]


def test_defaults_of_an_instance_are_its_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(said(Settings((), Section(0.25), rows=("c", "d"), must=3), monkeypatch, capsys))
    assert "[default: 0.25]" in text and "[default: c,d]" in text and "[default: 3]" in text


def test_a_command_without_options_offers_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [line for line in said(Bare, monkeypatch, capsys) if line] == ["Usage: simsiam do", "Do it."]
