"""`simsiam doctor`: what this machine can do, on the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.exit_codes import DONE, FAILED


@dataclass(frozen=True)
class DoctorOptions:
    """Show versions, devices and backends, what is missing, and how to get it. Exit code 1 if something is wrong."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Print the findings."""
    parse(DoctorOptions, arguments, prog)
    from simsiam.train.doctor import report

    return DONE if report(Console()) else FAILED
