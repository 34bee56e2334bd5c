from pathlib import Path
from typing import Any, Literal

import pytest

from simsiam.train.terminal.value_kind import kind_of


@pytest.mark.parametrize(
    ("annotation", "word", "value", "metavar", "expected"),
    [
        (int, "-3", -3, "INT", "takes a whole number"),
        (float, "1e-3", 1e-3, "FLOAT", "takes a number"),
        (str, "a,b", "a,b", "TEXT", "takes a text"),
        (Path, "a/b", Path("a/b"), "PATH", "takes a path"),
        (bool, "False", False, "{True,False}", "is one of True, False"),
        (Literal["a", "b"], "b", "b", "{a,b}", "is one of a, b"),
        (Literal[2, 3], "3", 3, "{2,3}", "is one of 2, 3"),
        (int | None, "None", None, "INT|None", "takes a whole number or None"),
        (int | None, "4", 4, "INT|None", "takes a whole number or None"),
        (Literal["a"] | None, "None", None, "{a}|None", "is one of a, None"),
        (tuple[float, float, float], "2", 2.0, "FLOAT,FLOAT,FLOAT", "takes three numbers"),
        (tuple[int, int], "2", 2, "INT,INT", "takes two whole numbers"),
        (tuple[Literal["a", "b"], ...], "a", "a", "{a,b},...", "is one of a, b, or several of them"),
        (tuple[str, ...], "a", "a", "TEXT,...", "takes a text"),
    ],
)
def test_word_of_a_type(annotation: Any, word: str, value: object, metavar: str, expected: str) -> None:
    kind = kind_of(annotation)
    read = kind.read(word)
    assert (read, type(read)) == (value, type(value))
    assert (kind.metavar, kind.expected) == (metavar, expected)


def test_length_of_tuples() -> None:
    lengths = [kind_of(annotation).length for annotation in (int, tuple[int, int], tuple[int, ...])]
    assert lengths == [None, 2, 0]


@pytest.mark.parametrize(("annotation", "word"), [(int, "1.5"), (float, "x"), (Literal["a"], "b"), (int | None, "x")])
def test_other_words_are_errors(annotation: Any, word: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        kind_of(annotation).read(word)


@pytest.mark.parametrize("annotation", [Path, Path | None, tuple[Path, ...]])
def test_a_tilde_in_a_path_is_the_home_folder(annotation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert kind_of(annotation).read("~/x") == Path("/h/x")
    assert kind_of(annotation).read("~no-such-user/x") == Path("~no-such-user/x")
