"""`simsiam evaluate knn`: the accuracy of nearest neighbours in the features of a checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from simsiam.train.config import DeviceName
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.exit_codes import DONE


@dataclass(frozen=True)
class EvaluateKnnOptions:
    """Classify images by their nearest neighbours in the frozen encoder's features."""

    checkpoint: Path
    """A checkpoint, or a run folder, whose newest checkpoint is taken."""
    train: Path = field(kw_only=True)
    """Labelled images among which neighbours are searched; folder or .beton."""
    test: Path = field(kw_only=True)
    """Labelled images to classify; folder or .beton."""
    k: int | None = None
    """Neighbours that vote; by default as in the run."""
    temperature: float | None = None
    """A vote weighs exp(cosine similarity / temperature); by default as in the run."""
    size: int | None = None
    """Height and width of the centre crop in pixels; by default as in the run."""
    short_side: int | None = None
    """Resize the shorter side to this many pixels first; by default as in the run."""
    device: DeviceName = "auto"
    """Where to run; `auto` takes the GPU if there is one."""
    workers: int | None = None
    """Loader processes; by default one for each core this program may use."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Measure the accuracy and print it."""
    options = parse(EvaluateKnnOptions, arguments, prog)
    from simsiam.train.evaluation.knn import evaluate_checkpoint

    console = Console()
    with show_progress(console, "Extracting features", "images") as progress:
        accuracy, k, temperature = evaluate_checkpoint(**vars(options), progress=progress)
    console.print(f"kNN accuracy: {100 * accuracy:.2f} %  (k {k}, temperature {temperature:g})", highlight=False)
    return DONE
