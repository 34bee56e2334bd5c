"""Suggestion for an unknown name: the known one that was probably meant."""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType


def nearest(word: str, names: Iterable[str]) -> str | None:
    """Return the name that looks most like `word`; None when none does.

    The last part of a dotted name is compared, too, and the start of each of its words: `lr` is near
    `optimizer.base-lr`. Leading dashes are ignored.
    """
    names, word = list(names), word.lstrip("-")
    for form in (_plain, _last_part):
        by_form = {form(name): name for name in reversed(names)}  # the first of two alike stays
        if found := difflib.get_close_matches(word, by_form, n=1):
            return by_form[found[0]]
    return next((name for name in names if any(part.startswith(word) for part in _words(name))), None)


def did_you_mean(word: str, names: Iterable[str], declined: Mapping[str, str] = MappingProxyType({})) -> str:
    """Return the end of a sentence: `; did you mean NAME?`, or a full stop where no name is near.

    `declined` gives the reason, in whole sentences, why there is no name with a certain prefix, in underscores.
    """
    plain = _plain(word).replace("-", "_")
    for prefix, reason in declined.items():
        if plain.startswith(prefix):
            return f". {reason}"
    name = nearest(word, names)
    return f"; did you mean {name}?" if name else "."


def _plain(name: str) -> str:
    return name.lstrip("-").lower()


def _words(name: str) -> list[str]:
    return _last_part(name).replace("_", "-").split("-")


def _last_part(name: str) -> str:
    return _plain(name).rpartition(".")[2]
