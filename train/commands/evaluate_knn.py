"""`simsiam evaluate knn`: a checkpoint and labelled images → the accuracy of nearest neighbours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from simsiam.train.config import DeviceName
from simsiam.train.terminal.arguments import call
from simsiam.train.terminal.console import show_progress


def evaluate_knn(
    checkpoint: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CHECKPOINT")],
    train: Path,
    test: Path,
    k: int | None = None,
    temperature: float | None = None,
    size: int | None = None,
    short_side: int | None = None,
    device: DeviceName = "auto",
    workers: int | None = None,
) -> None:
    """Classify images by their nearest neighbours in the frozen encoder's features.

    Args:
        checkpoint: A checkpoint, or a run folder, whose newest checkpoint is taken.
        train: Labelled images that neighbours are looked for in; folder or .beton.
        test: Labelled images to classify; folder or .beton.
        k: Neighbours that vote; by default as in the run.
        temperature: A vote weighs exp(cosine similarity / temperature); by default as in the run.
        size: Height and width of the centre crop; by default as in the run.
        short_side: Resize the shorter side to this first; by default as in the run.
        device: auto, cpu or cuda.
        workers: Loader processes; by default one for each core this program may use.
    """
    from simsiam.train.evaluation.knn import evaluate_checkpoint

    console = Console()
    with show_progress(console, "Extracting features", "images") as progress:
        accuracy, k, temperature = evaluate_checkpoint(
            checkpoint,
            train,
            test,
            k=k,
            temperature=temperature,
            size=size,
            short_side=short_side,
            device=device,
            workers=workers,
            progress=progress,
        )
    console.print(f"kNN accuracy: {100 * accuracy:.2f} %  (k {k}, temperature {temperature:g})", highlight=False)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(evaluate_knn, arguments, prog)
