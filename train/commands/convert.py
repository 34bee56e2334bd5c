"""`simsiam convert`: a set of images, whatever holds it → one .beton file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.console import Console

from simsiam.train.terminal.arguments import call
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.output_file import check_output
from simsiam.train.terminal.words import counted, on_one_line

if TYPE_CHECKING:
    from simsiam.pipeline.beton.convert import Conversion

_MOST_LINES = 20
"""Images left out that are named on the screen."""


def convert(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")],
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")],
    max_side: int | None = 500,
    quality: int = 90,
    workers: int | None = None,
    overwrite: bool = False,
    apply_orientation: bool = False,
    reencode: bool = False,
    check: Literal["markers", "full"] = "markers",
    devkit: Path | None = None,
) -> None:
    """Turn a set of images into one .beton file (FFCV 1.0), with a manifest beside it.

    What needs no change is copied. Whatever ended a conversion, the same command goes on.

    Args:
        source: Folder of images, whose sub-folders are the classes; ImageNet's tars; WebDataset shards; parquet files.
        out: The file to write, ending in .beton.
        max_side: Reduce images whose longer side is above this many pixels; None keeps every size.
        quality: JPEG quality, 1 to 100.
        workers: Processes; by default one for each core this program may use.
        overwrite: Replace an existing file.
        apply_orientation: Rotate images as their EXIF data says; by default pixels are kept as stored.
        reencode: Encode every image anew; by default a usual baseline JPEG that needs no change is copied.
        check: Look at copied JPEGs by their markers, which finds those cut short, or decode them in full.
        devkit: ImageNet's development kit, where its validation tar doesn't lie beside it.
    """
    from simsiam.pipeline.beton.convert import convert
    from simsiam.pipeline.sources.open_records import open_records

    check_output(out, ".beton")
    console = Console()
    with show_progress(console, "Listing", "tars") as progress:
        images = open_records(source, devkit=devkit, progress=progress)
    with show_progress(console, "Converting", "images") as progress:
        conversion = convert(
            images,
            out,
            max_side=max_side,
            quality=quality,
            workers=workers,
            overwrite=overwrite,
            apply_orientation=apply_orientation,
            reencode=reencode,
            check=check,
            progress=progress,
        )
    for line in _summary(conversion, len(images), check):
        console.print(on_one_line(line), highlight=False, markup=False, soft_wrap=True)


def _summary(conversion: "Conversion", images: int, check: str) -> Iterator[str]:
    from simsiam.pipeline.beton.manifest import manifest_path

    out, skipped = conversion.path, conversion.skipped
    done_now = images - conversion.taken_over
    yield (
        f"{counted(conversion.count, 'image')}, {conversion.bytes_written / 2**20:,.1f} MiB, {conversion.seconds:.1f} s"
        f" ({done_now / conversion.seconds:,.0f} images/s) → {out}"
    )
    now = ""
    if conversion.taken_over:
        yield f"{conversion.taken_over:,} images of the set had been done before"
        now = " now"
    undecoded = f", undecoded: simsiam verify {out} decodes them, as --check full would have"
    yield (
        f"{conversion.copied:,} were copied byte for byte{now}"
        f"{undecoded if conversion.copied and check == 'markers' else ''}"
    )
    for name, reason in skipped[:_MOST_LINES]:
        yield f"left out: {name}: {reason}"
    if skipped:
        yield f"{counted(len(skipped), 'image was', 'images were')} left out" + (
            f"; {manifest_path(out)} lists them all" if len(skipped) > _MOST_LINES else ""
        )


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(convert, arguments, prog)
