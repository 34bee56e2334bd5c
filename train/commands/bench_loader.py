"""`simsiam bench loader`: images → how fast each backend delivers crops of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from simsiam.train.bench.rows import LoaderRowName
from simsiam.train.config import DeviceName
from simsiam.train.terminal.arguments import call, split_at_commas
from simsiam.train.terminal.output_file import check_output


def bench_loader(
    source: Path,
    backends: tuple[LoaderRowName, ...] = ("auto",),
    images: Path | None = None,
    baseline: LoaderRowName | None = None,
    batch_size: int = 64,
    size: int = 224,
    workers: int | None = None,
    seconds: float = 12.0,
    rounds: int = 3,
    device: DeviceName = "auto",
    augment: bool = False,
    needed_images_per_second: float = 3000.0,
    json: Path | None = None,
) -> None:
    """Measure how fast backends deliver the crops of two views, beside what others do and the synthetic ceiling.

    Each row runs in its own process on as many cores as there are workers, and they take turns. A rate is the median
    of windows of a second or more; the first epoch counts apart. The ceiling, `synthetic`, does nothing but write a
    ready batch to new memory.

    Args:
        source: Folder of images, or .beton file.
        backends: What to measure: our backends, torchvision's ImageFolder with the reference transforms
            (imagefolder-pil) or with the crops alone (imagefolder-pil-crops), FFCV's own loader (ffcv-loader), and
            the copies to the GPU (copies). The synthetic ceiling is always measured, too.
        images: Folder of images, in class folders, for the rows that read no .beton; by default the source.
        baseline: The row that the others are compared with.
        batch_size: Images in a step.
        size: Height and width of a crop in pixels.
        workers: Loader processes or threads, and cores; by default one for each core this program may use.
        seconds: How long each row is measured, the first epoch left out.
        rounds: Turns that the seconds are shared by.
        device: Where the crops go: auto, cpu or cuda.
        augment: Have our backends' crops made into views, which imagefolder-pil always does.
        needed_images_per_second: What the GPU would take. 3,000 is an estimate for ResNet-50 in bf16 at 224 pixels
            on one H200: memory bandwidth allows 6,900, and the best published trainings reach about half of that.
        json: Write environment and results to this file, too.
    """
    from simsiam.train.bench.loader import bench_loaders
    from simsiam.train.bench.report import print_loader_results, write_results

    if json:
        check_output(json, ".json")
    console = Console()
    results = bench_loaders(
        source,
        backends,
        images=images,
        baseline=baseline,
        batch_size=batch_size,
        size=size,
        workers=workers,
        seconds=seconds,
        rounds=rounds,
        device=device,
        augment=augment,
        needed_images_per_second=needed_images_per_second,
        say=console.print,
    )
    print_loader_results(results, console)
    if json:
        write_results(results, json)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(bench_loader, split_at_commas(arguments, get_args(LoaderRowName)), prog)
