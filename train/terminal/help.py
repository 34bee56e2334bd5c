"""Help of a command: its usage, what it does, and each option with its values, docstring and default."""

import inspect
import textwrap
from dataclasses import MISSING
from itertools import groupby
from typing import Any

from rich.console import Console

from simsiam.train.terminal.options import Option, options_of

_MOST_COLUMNS = 100
"""Longer lines are hard to read."""
_KEEP = "\N{NO-BREAK SPACE}"
"""Stands for a space at which no line ends."""


def print_help(settings: Any, prog: str) -> None:
    """Print the help of the command `prog`, whose options are the fields of `settings`, a dataclass or an instance."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    columns = min(console.width, _MOST_COLUMNS)
    # Arguments by position, then options, then those of each section.
    options = sorted(options_of(settings), key=lambda option: (not option.positional, option.section != ""))
    required = [_usage(option) for option in options if option.default is MISSING]
    rest = ["[options]"] if len(options) > len(required) else []
    console.print(f"usage: {' '.join([prog, *required, *rest])}\n\n{_wrapped(_doc(settings), columns)}")
    for (is_positional, section), group in groupby(options, key=lambda option: (option.positional, option.section)):
        members = list(group)
        title = "arguments" if is_positional else f"{section} options".strip()
        console.print(f"\n{title}", style="bold")
        if section:
            console.print(_wrapped(_doc(members[0].owner), columns))
        for option in members:
            console.print(f"  {_usage(option)}", style="cyan")
            console.print(_wrapped(f"{option.help} {_default(option)}", columns, indent=" " * 8))


def _doc(settings: Any) -> str:
    return inspect.getdoc(settings) or ""


def _wrapped(text: str, columns: int, indent: str = "") -> str:
    wrapper = textwrap.TextWrapper(columns, indent, indent, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(map(wrapper.fill, text.split("\n\n"))).replace(_KEEP, " ")


def _usage(option: Option) -> str:
    if option.positional:
        return option.name + ("..." if option.kind.length == 0 else "")
    return ", ".join(option.names) if option.off_name else f"{option.name} {option.kind.metavar}"


def _default(option: Option) -> str:
    if option.default is MISSING:
        return "(required)"
    shown = ",".join(map(str, option.default)) if isinstance(option.default, tuple) else str(option.default)
    return f"(default:{_KEEP}{shown or 'none'})"
