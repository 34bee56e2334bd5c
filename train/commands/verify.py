"""`simsiam verify`: a set of images → every broken one with the reason, and exit code 1 if there is any."""

import json as json_format
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console

from simsiam.train.terminal.arguments import call
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.exit_codes import DONE, FAILED
from simsiam.train.terminal.output_file import check_output
from simsiam.train.terminal.words import counted, on_one_line

if TYPE_CHECKING:  # --help must not pay for what decodes
    from simsiam.pipeline.beton.verify import Verification

_CHECKSUMS = {
    None: "",
    True: "every byte was compared with the manifest's checksums",
    False: "there is no manifest beside it, so that no checksum was compared",
}


def verify(
    path: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="PATH")],
    devkit: Path | None = None,
    workers: int | None = None,
    json: Path | None = None,
) -> int:
    """Decode every image and list the broken ones. Exit code 1 if there is one.

    Args:
        path: Folder of images, .beton file, tars, or parquet files, as of `convert`.
        devkit: ImageNet's development kit, where its validation tar doesn't lie beside it.
        workers: Processes; by default one for each core this program may use.
        json: Write what was found to this file, too.
    """
    from simsiam.pipeline.atomic_write import write_text_atomically
    from simsiam.pipeline.beton.verify import verify

    if json:
        check_output(json, ".json")
    console = Console()
    found = verify(path, devkit=devkit, workers=workers, show=partial(show_progress, console))
    lines = [f"broken: {name}: {reason}" for name, reason in found.broken]
    lines += [f"damaged: {damage}" for damage in found.damaged]
    for line in [*lines, _summary(found)]:
        console.print(on_one_line(line), highlight=False, markup=False, soft_wrap=True)
    if json:
        write_text_atomically(json, json_format.dumps(_document(found), indent=1) + "\n")
    return DONE if found.whole else FAILED


def _summary(found: "Verification") -> str:
    return "; ".join(
        part
        for part in (
            f"{counted(found.images, 'image')} in {counted(found.classes, 'class', 'classes')}, {found.seconds:.1f} s"
            f" ({found.images_per_second:,.0f} images/s): {len(found.broken):,} broken",
            counted(len(found.damaged), "damaged page") if found.damaged else "",
            _CHECKSUMS[found.checksums],
        )
        if part
    )


def _document(found: "Verification") -> dict[str, object]:
    return {
        "path": str(found.path),
        "whole": found.whole,
        "images": found.images,
        "classes": found.classes,
        "broken": [{"name": name, "reason": reason} for name, reason in found.broken],
        "damaged": found.damaged,
        "checksums": found.checksums,
        "seconds": round(found.seconds, 3),
        "images_per_second": round(found.images_per_second, 1),
    }


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(verify, arguments, prog)
