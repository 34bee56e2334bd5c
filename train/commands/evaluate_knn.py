"""`simsiam evaluate knn`: the accuracy of nearest neighbours in the features of a checkpoint."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from simsiam.train.config import DeviceName
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.output_file import check_output
from simsiam.train.terminal.words import counted, on_one_line

if TYPE_CHECKING:  # --help must not pay for torch
    from simsiam.train.evaluation.knn import Measured


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
    json: Path | None = None
    """Also write what was measured to this file."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Measure the accuracy and print it."""
    options = parse(EvaluateKnnOptions, arguments, prog)
    from simsiam.pipeline.atomic_write import write_text_atomically
    from simsiam.train.evaluation.knn import evaluate_checkpoint

    settings = dict(vars(options))
    if out := settings.pop("json"):
        check_output(out, ".json")
    console = Console()
    with show_progress(console, "Extracting features", "images") as progress:
        measured = evaluate_checkpoint(**settings, progress=progress)
    for line in _summary(measured):
        console.print(on_one_line(line), highlight=False, markup=False, soft_wrap=True)
    if out:
        write_text_atomically(out, json.dumps(_document(measured, options), indent=1) + "\n")
    return DONE


def _summary(measured: "Measured") -> Iterator[str]:
    yield f"kNN accuracy: {100 * measured.accuracy:.2f} %  (k {measured.k}, temperature {measured.temperature:g})"
    for split, skipped in (("train", measured.train_skipped), ("test", measured.test_skipped)):
        if skipped:
            name, reason = skipped[0]
            yield f"skipped: {counted(len(skipped), f'broken {split} image')}, the first {name}: {reason}"


def _document(measured: "Measured", options: EvaluateKnnOptions) -> dict[str, object]:
    def skipped(images: list[tuple[str, str]]) -> list[dict[str, str]]:
        return [{"name": name, "reason": reason} for name, reason in images]

    return {
        "checkpoint": str(options.checkpoint),
        "accuracy": measured.accuracy,
        "k": measured.k,
        "temperature": measured.temperature,
        "train": {
            "path": str(options.train),
            "images": measured.train_images,
            "skipped": skipped(measured.train_skipped),
        },
        "test": {
            "path": str(options.test),
            "images": measured.test_images,
            "skipped": skipped(measured.test_skipped),
            "missing_classes": measured.missing_classes,
        },
    }
