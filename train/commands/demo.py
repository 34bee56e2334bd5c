"""`simsiam demo`: makes images, trains an encoder on them and measures it, all in one folder."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from simsiam.train.recipe import load_config, recipe_file
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.run_summary import print_summary


@dataclass(frozen=True)
class DemoOptions:
    """Make a small image set, convert it, pretrain on whatever device there is, evaluate, and draw curves."""

    out: Path = Path("runs/demo")
    """Folder for everything it makes; must be new or empty."""
    epochs: int | None = None
    """Epochs; by default the recipe's, a few minutes on two cores. Very few shorten the warm-up, too."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Run the demo and print its summary."""
    options = parse(DemoOptions, arguments, prog)
    from simsiam.train.demo import run_demo

    console = Console()
    config = load_config(recipe_file("demo"))
    if options.epochs is not None:
        warmup_epochs = min(config.optimizer.warmup_epochs, max(options.epochs - 1, 0))
        optimizer = dataclasses.replace(config.optimizer, warmup_epochs=warmup_epochs)
        config = dataclasses.replace(config, epochs=options.epochs, optimizer=optimizer)
    print_summary(run_demo(config, options.out, console), options.out / "run", console)
    return DONE
