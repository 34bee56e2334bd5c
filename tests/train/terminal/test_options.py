from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.options import INLINE, build, options_of


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
    how: Quality = field(default=Quality(80), metadata=INLINE)
    kind: Literal["a", "b"] = "b"
    """Again."""


def test_each_field_is_an_option() -> None:
    options = {option.key: option for option in options_of(Settings)}
    assert list(options) == ["source", "to", "kind", "some_name", "inner.loud", "inner.size", "quality"]
    names = [option.name for option in options.values()]
    assert names == ["SOURCE", "--to", "--kind", "--some-name", "--inner.loud", "--inner.size", "--quality"]
    assert [option.positional for option in options.values()] == [True, *[False] * 6]
    assert [option.off_name for option in options.values() if option.off_name] == ["--inner.no-loud"]
    assert options["inner.loud"].names == ("--inner.loud", "--inner.no-loud")
    assert [option.section for option in options.values()] == ["", "", "", "", "inner", "inner", ""]


def test_help_is_the_docstring_of_the_nearest_class() -> None:
    helps = {option.key: option.help for option in options_of(Settings)}
    assert helps == {
        "source": "From.",
        "kind": "Again.",
        "some_name": "",
        "inner.loud": "How\nloud.",
        "inner.size": "",
        "quality": "Of JPEGs.",
        "to": "",
    }


def test_defaults_are_those_of_the_class_or_of_the_instance() -> None:
    defaults = {option.key: option.default for option in options_of(Settings)}
    assert (defaults["source"], defaults["to"], defaults["quality"], defaults["kind"]) == (MISSING, MISSING, 80, "b")
    instance = Settings(Path("a"), inner=Inner(size=(3, 4)), to=Path("b"))
    defaults = {option.key: option.default for option in options_of(instance)}
    assert (defaults["source"], defaults["to"], defaults["inner.size"]) == (Path("a"), Path("b"), (3, 4))


def test_values_are_built_into_an_instance() -> None:
    values = {"source": Path("a"), "to": Path("b"), "inner.size": (5, 6), "quality": 70}
    built = Settings(Path("a"), inner=Inner(size=(5, 6)), how=Quality(70), to=Path("b"))
    assert build(Settings, values) == built
    assert build(built, {"kind": "a"}).inner == Inner(size=(5, 6))


def test_words_are_read_and_refused_under_the_name_they_were_given_by() -> None:
    options = {option.key: option for option in options_of(Settings)}
    assert options["inner.size"].read(["1,2"]) == options["inner.size"].read(["1", "2"]) == (1, 2)
    assert options["some_name"].read(["a,b"]) == "a,b"
    for words, given in (([], "nothing"), (["1"], "1"), (["1", "x"], "1 x"), (["1,2,3"], "1 2 3")):
        with pytest.raises(UsageError, match=f"^inner.size takes two whole numbers, not {given}\\.$"):
            options["inner.size"].read(words, "inner.size")
    with pytest.raises(UsageError, match=r"^--quality takes a whole number, not 1 2\."):
        options["quality"].read(["1", "2"])
