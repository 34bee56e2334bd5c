"""`simsiam plot`: run folders → their curves as one PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.arguments import call
from simsiam.train.terminal.output_file import check_output


def plot(
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN")],
    out: Path = Path("curves.png"),
) -> None:
    """Draw the curves of one or several runs as one PNG.

    Args:
        runs: Run folders.
        out: The PNG to write.
    """
    from simsiam.train.run.plots import plot_runs

    if not runs:
        raise UsageError("Name at least one run folder, as in: simsiam plot runs/demo/run.")
    check_output(out, ".png")
    print(plot_runs(runs, out))


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(plot, arguments, prog)
