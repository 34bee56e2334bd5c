"""`simsiam bench convert`: how fast a folder is scanned and converted, next to FFCV's own writer, measured in turns."""

import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from simsiam.pipeline.beton.convert import convert
from simsiam.pipeline.beton.transcode import Transcoding
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.sources.image_folder import ImageFolder
from simsiam.pipeline.sources.open_records import open_records
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.bench.pinned_process import PinnedProcess, first_cores
from simsiam.train.bench.rates import Result
from simsiam.train.bench.rows import ConvertRowName, check_package
from simsiam.train.bench.turns import StartRow, take_turns


@dataclass(frozen=True)
class ConvertSettings:
    """What a row converts, and how."""

    name: ConvertRowName
    source: Path
    """Folder of images in class folders."""
    out: Path
    """The .beton file that is written; everything in its folder is removed after each turn."""
    max_side: int
    """Longest side of an image in pixels; larger images are reduced."""
    quality: int
    """JPEG quality of what is encoded, 1 to 100."""
    workers: int


class Turn(NamedTuple):
    """One conversion of the whole folder."""

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
    start_row: StartRow = PinnedProcess,
) -> list[Result]:
    """Have each row convert the whole folder `rounds` times, one row after the other in each round.

    The clock starts with the folder's name, listing and scan included, and stops with the finished file. Each row has
    a process of its own, all on the same `workers` cores. Files are written to `folder`, by default the one for
    temporary files, and removed. `say` is told what is measured now; `start_row` starts the process of a row.

    Raises UsageError for wrong settings, and if FFCV is needed and isn't installed.
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
    with tempfile.TemporaryDirectory(prefix="simsiam-bench-", dir=folder) as temporary:
        out = Path(temporary) / "out.beton"
        settings = {row: ConvertSettings(row, source, out, max_side, quality, workers) for row in rows}
        measured = take_turns(turns_of, settings, cores, rounds, first=None, say=say, start_row=start_row)
    results = results_of({each.name: each.rounds for each in measured})
    common = {"max_side": max_side, "quality": quality, "workers": workers, "cores": len(cores)}
    return [
        result | {"peak_memory_mib": round(each.peak_memory_bytes / 2**20, 1)} | common
        for result, each in zip(results, measured, strict=True)
    ]


def results_of(turns: Mapping[str, Sequence[Turn]]) -> list[Result]:
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
            theirs = [turn.images / turn.seconds for turn in turns["ffcv-writer"]]
            ratios = [rate / same_turn for rate, same_turn in zip(rates, theirs, strict=True)]
            result["times_ffcv_writer"] = round(statistics.median(ratios), 2)
            result["times_ffcv_writer_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
        results.append(result)
    return results


def turns_of(settings: ConvertSettings) -> Generator[Turn]:
    """Convert the folder again whenever a turn is asked for, and yield what it took."""
    out = settings.out
    while True:
        started = time.perf_counter()
        images = convert_once(settings)
        seconds = time.perf_counter() - started
        file_bytes = out.stat().st_size if out.exists() else 0
        for file in out.parent.iterdir():
            file.unlink()
        yield Turn(images, seconds, file_bytes)


def convert_once(settings: ConvertSettings) -> int:
    """Scan or convert the folder as the row does; return the number of its images."""
    name, source, out = settings.name, settings.source, settings.out
    max_side, quality, workers = settings.max_side, settings.quality, settings.workers
    if name == "scan":
        return len(ImageFolder(source, workers=workers, cache=False))
    if name == "ffcv-writer":
        from simsiam.train.bench.baseline_ffcv import write_with_ffcv

        return write_with_ffcv(source, out, max_side, quality, workers)
    how = Transcoding(None if name == "bytes-copied" else max_side, quality, reencode=name == "re-encoded")
    return convert(open_records(source), out, how, workers=workers).count
