"""`simsiam convert`: a set of images, whatever holds it → one .beton file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from simsiam.pipeline.beton.transcode import Transcoding
from simsiam.pipeline.errors import DeadWorkerError
from simsiam.train.terminal.advice import dead_worker_advice
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.options import INLINE
from simsiam.train.terminal.output_file import check_output
from simsiam.train.terminal.words import counted, on_one_line

if TYPE_CHECKING:
    from simsiam.pipeline.beton.convert import Conversion

_MOST_LINES = 20
"""Skipped images that are named on the screen."""


@dataclass(frozen=True)
class ConvertOptions:
    """Turn a set of images into one .beton file (FFCV 1.0), with a manifest next to it.

    What needs no change is copied. Whatever ended a conversion, the same command resumes it. Images that aren't 8-bit
    RGB or gray are skipped with the reason, unless a range of intensity is given; files of other endings are counted.
    """

    source: Path
    """Folder of images, whose sub-folders are the classes; ImageNet's tars; WebDataset shards; zips; parquet files.

    Several files are given by their folder, or by a pattern such as 'train-*.tar'; a folder in one as photos.zip/train.
    """
    out: Path
    """The file to write, ending in .beton."""
    how: Transcoding = field(default=Transcoding(), metadata=INLINE)
    devkit: Path | None = None
    """ImageNet's development kit, if its validation tar isn't in the same folder."""
    workers: int | None = None
    """Processes; by default one for each core this program may use."""
    overwrite: bool = False
    """Replace an existing file."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Convert, and print what was done."""
    options = parse(ConvertOptions, arguments, prog)
    from simsiam.pipeline.beton.convert import convert
    from simsiam.pipeline.sources.open_records import open_records

    check_output(options.out, ".beton")
    console = Console()
    with show_progress(console, "Listing", "tars") as progress:
        images = open_records(options.source, devkit=options.devkit, progress=progress)
    advice = dead_worker_advice(DeadWorkerError, "fewer --workers")
    with show_progress(console, "Converting", "images") as progress, advice:
        conversion = convert(
            images,
            options.out,
            options.how,
            workers=options.workers,
            overwrite=options.overwrite,
            progress=progress,
        )
    for line in _summary(conversion, len(images), options.how.check):
        console.print(on_one_line(line), highlight=False, markup=False, soft_wrap=True)
    return DONE


def _summary(conversion: "Conversion", images: int, check: str) -> Iterator[str]:
    from simsiam.pipeline.beton.manifest import manifest_path
    from simsiam.pipeline.intensity import ADVICE

    out, skipped = conversion.path, conversion.skipped
    converted_now = images - conversion.taken_over
    yield (
        f"{counted(conversion.count, 'image')}, {conversion.bytes_written / 2**20:,.1f} MiB, {conversion.seconds:.1f} s"
        f" ({converted_now / conversion.seconds:,.0f} images/s) → {out}"
    )
    if conversion.taken_over:
        yield f"resumed: {counted(conversion.taken_over, 'image was', 'images were')} already converted"
    undecoded = f", not decoded; simsiam verify {out} decodes them, and so does --check full"
    yield (
        f"{counted(conversion.copied, 'was', 'were')} copied byte for byte"
        f"{undecoded if conversion.copied and check == 'markers' else ''}"
    )
    for name, reason in skipped[:_MOST_LINES]:
        yield f"skipped: {name}: {reason}"
    if skipped:
        yield f"{counted(len(skipped), 'image was', 'images were')} skipped" + (
            f"; {manifest_path(out)} lists them all" if len(skipped) > _MOST_LINES else ""
        )
    if deep := sum(ADVICE in reason for _, reason in skipped):
        yield (
            f"{counted(deep, 'image has', 'images have')} more than 8 bits a sample: give the values that become 0 and"
            " 255; the option is --intensity LOW,HIGH"
        )
    for remark, count in Counter(remark for _, remark in conversion.remarks).items():
        yield f"{counted(count, 'image')}: {remark}; {manifest_path(out)} lists them"
