"""`simsiam bench convert`: how fast a folder of images becomes a .beton, next to FFCV's own writer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from rich.console import Console

from simsiam.pipeline.errors import DeadWorkerError
from simsiam.train.bench.rows import ConvertRowName
from simsiam.train.terminal.advice import dead_worker_advice
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.output_file import check_output


@dataclass(frozen=True)
class BenchConvertOptions:
    """Measure how fast a folder is scanned, and converted to .beton in several ways, next to FFCV's own writer.

    Each way runs in its own process on as many cores as there are workers, and they take turns. A rate is the median
    over the turns; each is the whole way from the folder's name to the finished file.
    """

    source: Path
    """Folder of images in class folders."""
    rows: tuple[ConvertRowName, ...] = get_args(ConvertRowName)
    """What to measure: our scan of the folder (scan), simsiam convert as it is (convert), with all usual JPEGs copied
    whatever their size (bytes-copied), with every image encoded again (re-encoded), and FFCV's own DatasetWriter
    (ffcv-writer)."""
    max_side: int = 500
    """Reduce images whose longer side is above this many pixels, except for bytes-copied."""
    quality: int = 90
    """JPEG quality of what is encoded, 1 to 100."""
    workers: int | None = None
    """Processes, and cores; by default one for each core this program may use."""
    rounds: int = 3
    """How often each row converts the folder."""
    folder: Path | None = None
    """Where the files are written and removed again; by default where temporary files go."""
    json: Path | None = None
    """Also write environment and results to this file."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Measure the rows, print the results and write them where asked."""
    options = parse(BenchConvertOptions, arguments, prog)
    from simsiam.train.bench.convert import bench_convert
    from simsiam.train.bench.report import print_convert_results, write_results

    settings, console = dict(vars(options)), Console()
    if json := settings.pop("json"):
        check_output(json, ".json")
    with dead_worker_advice(DeadWorkerError, "fewer --workers"):
        results = bench_convert(**settings, say=console.print)
    print_convert_results(results, console)
    if json:
        write_results(results, json)
    return DONE
