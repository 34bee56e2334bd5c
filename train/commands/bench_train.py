"""`simsiam bench train`: how fast training is from images to weights, next to its ceiling and what most have."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from simsiam.pipeline.crops import Backend
from simsiam.pipeline.errors import DeadLoaderWorkerError
from simsiam.train.bench.rows import TrainRowName
from simsiam.train.config import DataConfig
from simsiam.train.terminal.advice import dead_worker_advice
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.bench_options import StepOptions
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.options import INLINE


@dataclass(frozen=True)
class BenchTrainOptions:
    """Measure training from images to weights, next to the step alone (synthetic) and the training that most have.

    Each row runs in its own process, loader and step on the same cores, and they take turns. A rate is the median of
    windows of a second or more, after a warm-up; the wait is the share of it in which the step had no batch.
    """

    source: Path
    """Folder of images, or .beton file."""
    rows: tuple[TrainRowName, ...] = ("ours", "baseline")
    """What to measure: our loader and step (ours); a DataLoader over torchvision's ImageFolder with the reference
    transforms, and a step in float32 (baseline) or mixed precision (baseline-amp) as in simsiam bench step. Our step on
    crops that are ready (synthetic) is always measured, too."""
    images: Path | None = None
    """Folder of images, in class folders, for the baseline; by default the source."""
    backend: Backend = "auto"
    """Our loader."""
    workers: int | None = None
    """Loader processes or threads of each row; by default one for each core this program may use."""
    step: StepOptions = field(default=StepOptions(), metadata=INLINE)


def run(arguments: Sequence[str], prog: str) -> int:
    """Measure the rows, print the results and write them where asked."""
    options = parse(BenchTrainOptions, arguments, prog)
    from simsiam.train.bench.report import print_step_and_train_results, write_results
    from simsiam.train.bench.train import bench_train

    step, console = options.step, Console()
    step.check_outputs()
    data = DataConfig(path=options.source, size=step.size, backend=options.backend, workers=options.workers)
    with dead_worker_advice(DeadLoaderWorkerError, "fewer --workers or a smaller --batch-size"):
        results = bench_train(
            step.config(data),
            options.rows,
            images=options.images,
            seconds=step.seconds,
            rounds=step.rounds,
            trace=step.profile,
            say=console.print,
        )
    print_step_and_train_results(results, console)
    if step.json:
        write_results(results, step.json)
    return DONE
