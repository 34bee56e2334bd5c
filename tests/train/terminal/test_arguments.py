import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro
from tyro import _errors

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.arguments import call, option_names, parse, split_at_commas


@dataclass(frozen=True)
class Inner:
    kind: Literal["plain", "fancy"] = "plain"
    """Kind."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """Bounds."""
    share: float = 0.5
    """Share."""

    def __post_init__(self) -> None:
        if self.share > 1:
            raise UsageError(f"inner.share is {self.share}; give at most 1.")


@dataclass(frozen=True)
class Settings:
    steps: int = 3
    """Steps."""
    limit: int | None = None
    """Limit."""
    quiet: bool = False
    """Quiet."""
    long_name: str = ""
    """Long."""
    inner: Inner = field(default_factory=Inner)


def command(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    quality: int = 90,
    overwrite: bool = False,
    inner: Inner = Inner(),
) -> int:
    """Do it.

    Args:
        source: From.
        out: To.
        quality: How well.
        overwrite: Whether.
        inner: More.
    """
    return quality


def test_options_reach_their_fields() -> None:
    options = "--steps 4 --quiet --inner.bounds -1 2 --inner.kind=fancy --long_name x"
    settings = parse(Settings(limit=7), options.split(), "prog")
    assert settings == Settings(4, 7, True, "x", Inner("fancy", (-1.0, 2.0)))


def test_function_is_called_and_gives_the_exit_code() -> None:
    assert call(command, ["a", "b", "--quality", "3", "--inner.share", "0.1"], "prog") == 3
    assert call(command, ["a", "b", "--quality", "0"], "prog") == 0


def test_bools_without_flags_take_a_value() -> None:
    assert parse(Settings(), ["--quiet", "True"], "prog", flags=False).quiet is True
    with pytest.raises(UsageError, match=re.escape("quiet is one of True, False, not maybe.")):
        parse(Settings(), ["--quiet", "maybe"], "prog", flags=False, show=lambda option: option[2:])


def test_names_of_options_are_tyros() -> None:
    names = list(option_names(Settings()))
    for name in (names, ["--inner.kind", "--long-name", "--no-quiet"]):
        assert set(name) <= set(names)
    # Each is known to tyro: what it complains of is the value, if anything.
    for name in names:
        with pytest.raises(UsageError) as refusal:
            parse(Settings(), [name, "a", "b", "c"], "prog")
        assert "There is no option" not in str(refusal.value)
    assert "--no-quiet" not in option_names(Settings(), flags=False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--step 4", "There is no option --step; did you mean --steps? prog --help lists them."),
        ("--step=4", "There is no option --step; did you mean --steps? prog --help lists them."),
        ("--share 4", "There is no option --share; did you mean --inner.share? prog --help lists them."),
        ("--xyzzy", "There is no option --xyzzy. prog --help lists them."),
        ("--inner x", "There is no option --inner; did you mean --inner.kind? prog --help lists them."),
        ("--quiet yes", "The argument yes is one too many; see prog --help."),
        ("--steps 3 4", "The argument 4 is one too many; see prog --help."),
        ("--steps x", "--steps takes a whole number, not x."),
        ("--steps=x", "--steps takes a whole number, not x."),
        ("--steps 4 --steps 1.5", "--steps takes a whole number, not 1.5."),
        ("--steps", "--steps takes a whole number, not nothing."),
        ("--steps --quiet", "--steps takes a whole number, not nothing."),
        ("--limit x", "--limit takes a whole number or None, not x."),
        ("--inner.share x", "--inner.share takes a number, not x."),
        ("--inner.bounds 1", "--inner.bounds takes two numbers, not 1."),
        ("--inner.bounds 1 x", "--inner.bounds takes two numbers, not 1 x."),
        ("--inner.kind fanzy", "--inner.kind is one of plain, fancy, not fanzy."),
        ("--inner.share 2", "inner.share is 2.0; give at most 1."),
    ],
)
def test_mistake_is_one_sentence(options: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(Settings(), options.split(), "prog")
    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", "prog needs SOURCE and OUT; see prog --help."),
        ("a", "prog needs OUT; see prog --help."),
        ("a b c", "The argument c is one too many; see prog --help."),
        ("a --qualty 3", "There is no option --qualty; did you mean --quality? prog --help lists them."),
        ("a b --source c", "There is no option --source. prog --help lists them."),
        ("a b --inner.share 2", "inner.share is 2.0; give at most 1."),
    ],
)
def test_mistake_in_a_functions_arguments_is_one_sentence(arguments: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        call(command, arguments.split(), "prog")
    assert str(refusal.value) == sentence


def test_error_of_the_function_itself_passes() -> None:
    def fails() -> int:
        raise ValueError("from within")

    with pytest.raises(ValueError, match="from within") as error:
        call(fails, [], "prog")
    assert error.type is ValueError


def test_kind_of_mistake_that_tyro_adds_later_is_a_sentence_too() -> None:
    class Later(_errors.ParseErrorEvent):
        pass

    hook = _errors._parse_error_hook

    def fires() -> None:
        event_hook = hook.get()
        assert event_hook is not None
        event_hook(Later("prog"))

    with pytest.raises(UsageError, match=r"These arguments don't fit \(Later\); see prog --help\."):
        call(fires, [], "prog")


def test_names_are_split_at_commas_and_nothing_else_is() -> None:
    words = ["--backend", "torch,ffcv", "a,b.png", "dali", "torch,nonsense"]
    assert split_at_commas(words, ("torch", "ffcv", "dali")) == [
        *("--backend", "torch", "ffcv", "a,b.png", "dali", "torch", "nonsense"),
    ]
