"""Arguments of a command → its settings, a dataclass; or one sentence on what is wrong.

Weighed were tyro (the wording of its errors can be changed through a private module alone), cyclopts (an option given
sets the others back to the class's defaults, not to a recipe's) and jsonargparse (no `--no-…`, no dashes in names).
What is asked for here, also of YAML, takes each option's name, type and docstring, and with these little is left to do.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from typing import TypeVar

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.help import print_help
from simsiam.train.terminal.options import Option, build, options_of
from simsiam.train.terminal.suggestion import did_you_mean

Settings = TypeVar("Settings")


def parse(settings: type[Settings] | Settings, arguments: Sequence[str], prog: str) -> Settings:
    """Return the settings that the arguments of the command `prog` come to.

    `settings` is a dataclass, or an instance whose values are the defaults. A bool is switched by `--name` and
    `--no-name`; the values of a tuple are joined by commas, or given as so many words if its length is fixed; an
    option's name may have underscores for dashes; of an option given twice the last one counts.

    Raises UsageError, with the nearest right name, when the arguments don't fit; SystemExit once help is printed. A
    class attribute `DECLINED` of the dataclass says why there are no options of certain names; see `did_you_mean`.
    """
    if not {"-h", "--help"}.isdisjoint(arguments):
        print_help(settings, prog)
        raise SystemExit(DONE)
    options = list(options_of(settings))
    by_name = {name: option for option in options for name in option.names if not option.positional}
    for name in (word.partition("=")[0] for word in arguments if _is_name(word)):
        if _dashed(name) not in by_name:
            hint = did_you_mean(name, by_name, getattr(settings, "DECLINED", {}))
            raise UsageError(f"There is no option {name}{hint} {prog} --help lists them.")
    values = {option.key: option.read(words) for option, words in _given(arguments, options, by_name, prog)}
    missing = [option.name for option in options if option.default is MISSING and option.key not in values]
    if missing:
        raise UsageError(f"{prog} needs {' and '.join(missing)}; see {prog} --help.")
    return build(settings, values)


def _given(
    arguments: Sequence[str], options: Sequence[Option], by_name: dict[str, Option], prog: str
) -> Iterator[tuple[Option, list[str]]]:
    """Yield each option with the words given for it, then the arguments by position."""
    remaining, loose, last = deque(arguments), deque[str](), None
    while remaining:
        word = remaining.popleft()
        if not _is_name(word):
            loose.append(word)
            continue
        name, equals, value = word.partition("=")
        last = by_name[_dashed(name)]
        if not last.off_name:
            yield last, [value] if equals else list(_following(remaining, last.kind.length or 1))
        elif not equals:
            yield last, [str(_dashed(name) == last.name)]
        else:
            raise UsageError(f"{name} takes no value; give {last.name} or {last.off_name}.")
    for option in (option for option in options if option.positional):
        several = option.kind.length == 0
        if loose or several:
            yield option, [loose.popleft() for _ in range(len(loose) if several else 1)]
    if loose:
        advice = f"join the values of {last.name} by commas" if last and last.kind.length == 0 else f"see {prog} --help"
        raise UsageError(f"The argument {loose[0]} is one too many; {advice}.")


def _following(remaining: deque[str], most: int) -> Iterator[str]:
    """Take the next words, up to the name of an option; one with commas holds all values."""
    for _ in range(most):
        if not remaining or _is_name(remaining[0]):
            return
        word = remaining.popleft()
        yield word
        if "," in word:
            return


def _is_name(word: str) -> bool:
    """Whether a word is meant for an option, and is no negative number or path."""
    return re.match(r"--|-[a-zA-Z]", word) is not None


def _dashed(name: str) -> str:
    return name.replace("_", "-")
