from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.arguments import parse


@dataclass(frozen=True)
class Inner:
    kind: Literal["plain", "fancy"] = "plain"
    bounds: tuple[float, float] = (0.0, 1.0)
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.share > 1:
            raise UsageError(f"inner.share is {self.share}; give at most 1.")


@dataclass(frozen=True)
class Settings:
    steps: int = 3
    limit: int | None = None
    quiet: bool = False
    long_name: str = ""
    rows: tuple[Literal["ours", "theirs"], ...] = ("ours",)
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Command:
    """Do it."""

    source: Path
    out: Path
    quality: int = 90
    overwrite: bool = False
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Optional:
    path: Path | None = Path("a")
    text: str | None = "a"
    layers: Literal[2, 3] | None = 2


@dataclass(frozen=True)
class Several:
    files: tuple[Path, ...]
    by: str = field(kw_only=True)
    out: Path = Path("out")

    DECLINED: ClassVar[dict[str, str]] = {"sort": "Files keep their order."}


def test_options_reach_their_fields() -> None:
    options = "--steps 4 --quiet --inner.bounds -1 2 --inner.kind=fancy --long_name x --rows theirs,ours"
    settings = parse(Settings(limit=7), options.split(), "prog")
    assert settings == Settings(4, 7, True, "x", ("theirs", "ours"), Inner("fancy", (-1.0, 2.0)))


def test_a_dataclass_gives_its_own_defaults_and_an_instance_its_values() -> None:
    assert parse(Settings, [], "prog") == Settings()
    assert parse(Settings(steps=9, inner=Inner("fancy")), ["--inner.share", "1"], "prog") == Settings(
        9, inner=Inner("fancy", share=1.0)
    )


def test_bools_are_switched_and_the_last_of_two_counts() -> None:
    assert parse(Settings(quiet=True), ["--no-quiet"], "prog").quiet is False
    assert parse(Settings, ["--quiet", "--no-quiet", "--steps", "1", "--steps", "2"], "prog") == Settings(2)
    rows = ["--rows", "theirs,ours", "--rows", "theirs"]
    assert parse(Settings, rows, "prog").rows == ("theirs",)
    assert parse(Settings, ["--inner.bounds", "1,2", "--inner.bounds", "3", "4"], "prog").inner.bounds == (3, 4)


def test_none_is_a_value_where_it_may_be_one() -> None:
    assert parse(Settings(limit=7), ["--limit", "None"], "prog").limit is None
    for word in ("None", "3"):
        assert parse(Optional, ["--path", word, "--text", word, "--layers", word], "prog") == (
            Optional(None, None, None) if word == "None" else Optional(Path(word), word, 3)
        )


def test_numbers_of_a_tuple_may_be_joined_by_commas_or_be_words() -> None:
    for words in (["-1e-3,2"], ["-1e-3", "2"]):
        assert parse(Settings, ["--inner.bounds", *words], "prog").inner.bounds == (-1e-3, 2.0)


def test_arguments_by_position_stand_anywhere_between_options() -> None:
    for words in (
        "a b --quality 3",
        "--quality 3 a b",
        "a --quality=3 b",
        "a --overwrite b --quality 3 --no-overwrite",
    ):
        assert parse(Command, words.split(), "prog") == Command(Path("a"), Path("b"), 3)
    assert parse(Several, ["a,1", "b", "--by", "x", "c"], "prog").files == (Path("a,1"), Path("b"), Path("c"))
    assert parse(Several, ["--by", "x"], "prog").files == ()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--step 4", "There is no option --step; did you mean --steps? prog --help lists them."),
        ("--step=4", "There is no option --step; did you mean --steps? prog --help lists them."),
        ("-steps 4", "There is no option -steps; did you mean --steps? prog --help lists them."),
        ("--share 4", "There is no option --share; did you mean --inner.share? prog --help lists them."),
        ("--xyzzy", "There is no option --xyzzy. prog --help lists them."),
        ("--inner x", "There is no option --inner; did you mean --inner.kind? prog --help lists them."),
        ("--steps x --xyzzy", "There is no option --xyzzy. prog --help lists them."),
        ("--quiet yes", "The argument yes is one too many; see prog --help."),
        ("--quiet=maybe", 'Invalid value for --quiet: unable to convert "maybe" into bool.'),
        ("--steps 3 4", "The argument 4 is one too many; see prog --help."),
        ("--steps x", 'Invalid value for --steps: unable to convert "x" into int.'),
        ("--steps=x", 'Invalid value for --steps: unable to convert "x" into int.'),
        ("--steps 4 --steps 1.5", 'Invalid value for --steps: unable to convert "1.5" into int.'),
        ("--steps", "--steps needs 1 value, not 0."),
        ("--steps=", 'Invalid value for --steps: unable to convert "" into int.'),
        ("--steps --quiet", "--steps needs 1 value, not 0."),
        ("--limit x", 'Invalid value for --limit: unable to convert "x" into int.'),
        ("--inner.share x", 'Invalid value for --inner.share: unable to convert "x" into float.'),
        ("--inner.bounds 1", "--inner.bounds needs 2 values, not 1."),
        ("--inner.bounds 1 x", 'Invalid value for --inner.bounds: unable to convert "x" into float.'),
        ("--inner.bounds 1,2 3", "The argument 3 is one too many; see prog --help."),
        ("--inner.bounds 1,2,3", "The argument 3 is one too many; see prog --help."),
        (
            "--inner.kind fanzy",
            'Invalid value "fanzy" for --inner.kind. Choose from: "plain", "fancy". Did you mean "fancy"?',
        ),
        ("--rows ours,them", 'Invalid value "them" for --rows. Choose from: "ours", "theirs". Did you mean "theirs"?'),
        ("--rows --quiet", "--rows needs 1 value, not 0."),
        ("--rows=", 'Invalid value "" for --rows. Choose from: "ours", "theirs".'),
        ("--rows ours theirs", "The argument theirs is one too many; join the values of --rows by commas."),
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
        ("a b --source c", "There is no option --source; did you mean SOURCE? prog --help lists them."),
        ("a b --overwrite=", 'Invalid value for --overwrite: unable to convert "" into bool.'),
        ("a b --inner.share 2", "inner.share is 2.0; give at most 1."),
    ],
)
def test_mistake_in_a_command_with_arguments_by_position_is_one_sentence(arguments: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(Command, arguments.split(), "prog")
    assert str(refusal.value) == sentence


def test_path_is_not_empty() -> None:
    for words in (["a", "--by=x", "--out="], ["a", "--by=x", "--out", ""], ["a", "--by=x", "--out"]):
        with pytest.raises(UsageError, match="--out"):
            parse(Several, words, "prog")


def test_tilde_in_a_path_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    settings = parse(Several, ["~/a", "~no-such-user/b", "--by=~/x", "--out=~/c"], "prog")
    assert settings == Several((Path("/h/a"), Path("~no-such-user/b")), out=Path("/h/c"), by="~/x")


def test_required_option_and_option_that_is_missing_on_purpose() -> None:
    with pytest.raises(UsageError, match=r"^prog needs --by; see prog --help\.$"):
        parse(Several, ["a"], "prog")
    with pytest.raises(UsageError, match=r"^There is no option --sorted\. Files keep their order\. prog --help"):
        parse(Several, ["a", "--sorted"], "prog")


@pytest.mark.parametrize("words", ["--help", "-h", "--xyzzy -h", "a b c --help"])
def test_help_comes_before_every_complaint(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Command, words.split(), "prog")
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert said.out.startswith("Usage: prog [OPTIONS] SOURCE OUT\n") and said.err == ""
