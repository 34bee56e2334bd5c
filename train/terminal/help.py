"""Help of a command: its usage, what it does, and each option with its values, docstring and default."""

from collections.abc import Mapping
from typing import Any

from cyclopts.help import DefaultFormatter, HelpPanel
from rich.console import Console, ConsoleOptions


class HelpFormatter(DefaultFormatter):
    """Formatter of cyclopts with other defaults than a dataclass has: by key, such as `data.path`."""

    def __init__(self, defaults: Mapping[str, Any]) -> None:
        super().__init__()
        self._by_name = {f"--{key.replace('_', '-')}": shown(value) for key, value in defaults.items()}

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of options."""
        entries = [
            entry.copy(default=self._by_name.get("".join(entry.names[:1]), entry.default)) for entry in panel.entries
        ]
        super().__call__(console, options, panel.copy(entries=entries))


def shown(value: Any) -> str:
    """Return a default as help shows it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
