"""A folder of images → how fast it is scanned and converted, beside FFCV's own writer, measured in turns."""

import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.bench.pinned_process import PinnedProcess, first_cores
from simsiam.train.bench.rows import ConvertRowName, check_package


class Turn(NamedTuple):
    """What a row did once."""

    images: int
    seconds: float
    file_bytes: int


def bench_convert(
    source: Path,
    rows: Sequence[ConvertRowName],
    *,
    max_side: int,
    quality: int,
    workers: int | None,
    rounds: int,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Have each row do the whole folder `rounds` times, one row after the other in each round.

    The clock begins with the folder's name, listing and scan included, and ends with the finished file. Each row has
    a process of its own, all on the same `workers` cores. Files are written to `folder`, by default the one for
    temporary files, and removed.

    Raises UsageError for bad settings, and when FFCV is needed and isn't there.
    """
    if not source.is_dir():
        raise UsageError(f"There is no folder {source}; give a folder of images in class folders.")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"There is no folder {folder} to write to; make it, or choose another.")
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}; give 1 or more.")
    workers = max(worker_count(workers), 1)
    rows = list(dict.fromkeys(rows))
    for row in rows:
        check_package(row)
    cores = first_cores(workers)
    turns: dict[str, list[Turn]] = {row: [] for row in rows}
    with ExitStack() as stack:
        out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simsiam-bench-", dir=folder))) / "out.beton"
        processes = []
        for row in rows:
            process = PinnedProcess(row, cores, _turns, row, source, out, max_side, quality, workers)
            processes.append(stack.enter_context(closing(process)))
        for number in range(1, rounds + 1):
            say(f"Round {number} of {rounds}")
            for row, process in zip(rows, processes, strict=True):
                turns[row].append(next(process))
        peaks = {row: process.peak_memory_bytes for row, process in zip(rows, processes, strict=True)}
    common = {"max_side": max_side, "quality": quality, "workers": workers, "cores": len(cores)}
    return [
        result | {"peak_memory_mib": round(peaks[result["name"]] / 2**20, 1)} | common for result in results_of(turns)
    ]


def results_of(turns: Mapping[str, Sequence[Turn]]) -> list[dict[str, Any]]:
    """Return a result for each row: the median over its turns, and that of the ratio to `ffcv-writer` in each round."""
    results = []
    for name, each in turns.items():
        rates = [turn.images / turn.seconds for turn in each]
        result = {
            "name": name,
            "images": each[0].images,
            "images_per_second": round(statistics.median(rates), 1),
            "images_per_second_by_round": [round(rate, 1) for rate in rates],
            "file_mib": round(each[0].file_bytes / 2**20, 1),
        }
        if "ffcv-writer" in turns:
            ratios = [rate * peer.seconds / peer.images for rate, peer in zip(rates, turns["ffcv-writer"], strict=True)]
            result["times_ffcv_writer"] = round(statistics.median(ratios), 2)
            result["times_ffcv_writer_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
        results.append(result)
    return results


def _turns(row: ConvertRowName, source: Path, out: Path, max_side: int, quality: int, workers: int) -> Generator[Turn]:
    while True:
        started = time.perf_counter()
        if row == "ffcv-writer":
            from simsiam.train.bench.baseline_ffcv import write_with_ffcv

            images = write_with_ffcv(source, out, max_side, quality, workers)
        elif row == "scan":
            images = len(ImageFolder(source, workers=workers, cache=False))
        else:
            images = convert(
                open_records(source),
                out,
                max_side=None if row == "bytes-copied" else max_side,
                quality=quality,
                workers=workers,
                reencode=row == "re-encoded",
            ).count
        seconds = time.perf_counter() - started
        file_bytes = out.stat().st_size if out.exists() else 0
        for file in out.parent.iterdir():
            file.unlink()
        yield Turn(images, seconds, file_bytes)
