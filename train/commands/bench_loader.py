"""`simsiam bench loader`: how fast each backend delivers crops of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from simsiam.pipeline.errors import DeadLoaderWorkerError
from simsiam.train.bench.rows import LoaderRowName
from simsiam.train.config import DeviceName
from simsiam.train.terminal.advice import dead_worker_advice
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.output_file import check_output


@dataclass(frozen=True)
class BenchLoaderOptions:
    """Measure how fast backends deliver the crops of two views, next to what others do and the synthetic ceiling.

    Each row runs in its own process on as many cores as there are workers, and they take turns. A rate is the median
    of windows of a second or more; the first epoch counts apart. The ceiling, `synthetic`, does nothing but write a
    ready batch to new memory.
    """

    source: Path
    """Folder of images, or .beton file."""
    backend: tuple[LoaderRowName, ...] = ("auto",)
    """What to measure: our backends, torchvision's ImageFolder with the reference transforms (imagefolder-pil) or with
    the crops alone (imagefolder-pil-crops), FFCV's own loader (ffcv-loader), and the copies to the GPU (copies). The
    synthetic ceiling is always measured, too."""
    images: Path | None = None
    """Folder of images, in class folders, for the rows that read no .beton; by default the source."""
    baseline: LoaderRowName | None = None
    """The row that the others are compared with."""
    batch_size: int = 64
    """Images in a step."""
    size: int = 224
    """Height and width of a crop in pixels."""
    workers: int | None = None
    """Loader processes or threads, and cores; by default one for each core this program may use."""
    seconds: float = 12.0
    """How long each row is measured, after its first epoch."""
    rounds: int = 3
    """Turns that the seconds are shared by."""
    device: DeviceName = "auto"
    """Where the crops go; `auto` takes the GPU if there is one."""
    augment: bool = False
    """Also make views of our backends' crops, as imagefolder-pil always does."""
    needed_images_per_second: float = 3000.0
    """What the GPU would take. 3,000 is an estimate for ResNet-50 in bf16 at 224 pixels on one H200: memory bandwidth
    allows 6,900, and the best published trainings reach about half of that."""
    json: Path | None = None
    """Also write environment and results to this file."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Measure the rows, print the results and write them where asked."""
    options = parse(BenchLoaderOptions, arguments, prog)
    from simsiam.train.bench.loader import bench_loaders
    from simsiam.train.bench.report import print_loader_results, write_results

    settings, console = dict(vars(options)), Console()
    if json := settings.pop("json"):
        check_output(json, ".json")
    source, rows = settings.pop("source"), settings.pop("backend")
    with dead_worker_advice(DeadLoaderWorkerError, "fewer --workers or a smaller --batch-size"):
        results = bench_loaders(source, rows, **settings, say=console.print)
    print_loader_results(results, console)
    if json:
        write_results(results, json)
    return DONE
