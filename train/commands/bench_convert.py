"""`simsiam bench convert`: a folder of images → how fast it becomes a .beton, beside FFCV's own writer."""

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from simsiam.train.bench.rows import ConvertRowName
from simsiam.train.terminal.arguments import call
from simsiam.train.terminal.output_file import check_output

_ALL_ROWS: tuple[ConvertRowName, ...] = get_args(ConvertRowName)


def bench_convert(
    source: Path,
    rows: tuple[ConvertRowName, ...] = _ALL_ROWS,
    max_side: int = 500,
    quality: int = 90,
    workers: int | None = None,
    rounds: int = 3,
    folder: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure how fast a folder is scanned, and converted to .beton in several ways, beside FFCV's own writer.

    Each way runs in its own process on as many cores as there are workers, and they take turns. A rate is the median
    over the turns; each is the whole way from the folder's name to the finished file.

    Args:
        source: Folder of images in class folders.
        rows: What to measure: our scan of the folder (scan), simsiam convert as it is (convert), with all usual JPEGs
            copied whatever their size (bytes-copied), with every image encoded anew (re-encoded), and FFCV's own
            DatasetWriter (ffcv-writer).
        max_side: Reduce images whose longer side is above this many pixels, but for bytes-copied.
        quality: JPEG quality of what is encoded, 1 to 100.
        workers: Processes, and cores; by default one for each core this program may use.
        rounds: How often each row does the folder.
        folder: Where the files are written and removed again; by default where temporary files go.
        json: Write environment and results to this file, too.
    """
    from simsiam.train.bench.convert import bench_convert
    from simsiam.train.bench.report import print_convert_results, write_results

    if json:
        check_output(json, ".json")
    console = Console()
    results = bench_convert(
        source,
        rows,
        max_side=max_side,
        quality=quality,
        workers=workers,
        rounds=rounds,
        folder=folder,
        say=console.print,
    )
    print_convert_results(results, console)
    if json:
        write_results(results, json)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(bench_convert, arguments, prog)
