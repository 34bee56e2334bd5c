"""`simsiam demo`: nothing → images, a trained encoder, its kNN accuracy and curves, in one folder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from simsiam.train.commands.pretrain import print_summary
from simsiam.train.recipe import load_config, recipe_file
from simsiam.train.terminal.arguments import call


def demo(
    out: Path = Path("runs/demo"),
    epochs: int | None = None,
) -> None:
    """Make a small image set, convert it, pretrain on whatever device there is, evaluate, and draw curves.

    Args:
        out: Folder for everything it makes; must be new or empty.
        epochs: Epochs; by default the recipe's, a few minutes on two cores. Very few shorten the warm-up, too.
    """
    from simsiam.train.demo import run_demo

    console = Console()
    config = load_config(recipe_file("demo"))
    if epochs is not None:
        warmup_epochs = min(config.optimizer.warmup_epochs, max(epochs - 1, 0))
        optimizer = dataclasses.replace(config.optimizer, warmup_epochs=warmup_epochs)
        config = dataclasses.replace(config, epochs=epochs, optimizer=optimizer)
    summary = run_demo(config, out, console)
    print_summary(summary, out / "run", console)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(demo, arguments, prog)
