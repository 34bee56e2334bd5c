"""Arguments of a command → its settings, a dataclass; or one sentence on what is wrong.

Weighed were tyro (the wording of its errors can be changed through a private module alone), cyclopts (an option given
sets the others back to the class's defaults, not to a recipe's) and jsonargparse (no `--no-…`, no dashes in names).
What is asked for here, also of YAML, takes each option's name, type and docstring, and with these little is left to do.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import MISSING
from typing import Any, TypeVar

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
    # All arguments are sorted before the first is read: a misspelt option may be why a value seems wrong.
    given = list(_given(settings, options, arguments, prog))
    values = {option.key: option.read(words) for option, words in given}
    missing = [option.name for option in options if option.default is MISSING and option.key not in values]
    if missing:
        raise UsageError(f"{prog} needs {' and '.join(missing)}; see {prog} --help.")
    return build(settings, values)


def _given(
    settings: Any, options: Sequence[Option], arguments: Sequence[str], prog: str
) -> Iterator[tuple[Option, list[str]]]:
    """Yield each option with the words given for it, then the arguments by position."""
    by_name = {name: option for option in options for name in option.names if not option.positional}
    by_position = [option for option in options if option.positional]
    remaining, loose, option = deque(arguments), deque[str](), None
    while remaining:
        word = remaining.popleft()
        if not _is_name(word):
            loose.append(word)
            continue
        written, equals, value = word.partition("=")
        name = written.replace("_", "-")
        option = by_name.get(name)
        if option is None:
            hint = did_you_mean(written, by_name, getattr(settings, "DECLINED", {}))
            for each in by_position:
                hint = f"; give {each.name} without a name." if name == f"--{each.key}" else hint
            raise UsageError(f"There is no option {written}{hint} {prog} --help lists them.")
        if not option.off_name:
            yield option, [value] if equals else list(_following(remaining, option.kind.length or 1))
        elif not equals:
            yield option, [str(name == option.name)]
        else:
            raise UsageError(f"{written} takes no value; give {' or '.join(option.names)}.")
    for each in by_position:
        several = each.kind.length == 0
        if loose or several:
            yield each, [loose.popleft() for _ in range(len(loose) if several else 1)]
    if loose:
        advice = f"see {prog} --help"
        if option and option.kind.length == 0:
            advice = f"join the values of {option.name} by commas"
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
