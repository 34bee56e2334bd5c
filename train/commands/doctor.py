"""`simsiam doctor`: nothing → what this machine can do, on the terminal."""

from collections.abc import Sequence

from rich.console import Console

from simsiam.train.terminal.arguments import call
from simsiam.train.terminal.exit_codes import DONE, FAILED


def doctor() -> int:
    """Show versions, devices and backends, what is missing, and how to get it. Exit code 1 if something is wrong."""
    from simsiam.train.doctor import report

    return DONE if report(Console()) else FAILED


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(doctor, arguments, prog)
