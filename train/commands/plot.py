"""`simsiam plot`: the curves of runs as one PNG."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from simsiam.pipeline.errors import UsageError
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.output_file import check_output


@dataclass(frozen=True)
class PlotOptions:
    """Draw the curves of one or several runs as one PNG."""

    runs: tuple[Path, ...]
    """Run folders."""
    out: Path = Path("curves.png")
    """The PNG to write."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Draw the curves and print the file's name."""
    options = parse(PlotOptions, arguments, prog)
    from simsiam.train.run.plots import plot_runs

    if not options.runs:
        raise UsageError("Name at least one run folder, as in: simsiam plot runs/demo/run.")
    check_output(options.out, ".png")
    print(plot_runs(options.runs, options.out))
    return DONE
