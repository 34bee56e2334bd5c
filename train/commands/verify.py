"""`simsiam verify`: every broken image of a set with the reason, and exit code 1 if there is any."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from simsiam.pipeline.errors import DeadWorkerError
from simsiam.train.terminal.advice import dead_worker_advice
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.console import show_progress
from simsiam.train.terminal.exit_codes import DONE, FAILED
from simsiam.train.terminal.output_file import check_output
from simsiam.train.terminal.words import counted, on_one_line

if TYPE_CHECKING:  # --help must not pay for what decodes
    from simsiam.pipeline.beton.verify import Verification

_CHECKSUMS = {
    None: "",
    True: "every byte was compared with the manifest's checksums",
    False: "there is no manifest next to it, so no checksum was compared",
}


@dataclass(frozen=True)
class VerifyOptions:
    """Decode every image and list the broken ones. Exit code 1 if there is one.

    Images are judged by the decoder that training uses: what it refuses is broken, also for having more than 8 bits a
    sample or bands that would be lost. Images of one colour are counted; they aren't broken. The start of a run reads
    the headers of a folder's images only, and what convert copies it judges by its markers: this decodes them.
    """

    source: Path
    """Folder of images, .beton file, tars, zips, or parquet files, as for `convert`."""
    devkit: Path | None = None
    """ImageNet's development kit, if its validation tar isn't in the same folder."""
    workers: int | None = None
    """Processes; by default one for each core this program may use."""
    json: Path | None = None
    """Also write what was found to this file."""


def run(arguments: Sequence[str], prog: str) -> int:
    """Print what was found."""
    options = parse(VerifyOptions, arguments, prog)
    from simsiam.pipeline.atomic_write import write_text_atomically
    from simsiam.pipeline.beton.verify import verify

    if options.json:
        check_output(options.json, ".json")
    console = Console()
    show = partial(show_progress, console)
    with dead_worker_advice(DeadWorkerError, "fewer --workers"):
        found = verify(options.source, devkit=options.devkit, workers=options.workers, show=show)
    lines = [f"broken: {name}: {reason}" for name, reason in found.broken]
    lines += [f"damaged: {damage}" for damage in found.damaged]
    for line in [*lines, _summary(found)]:
        console.print(on_one_line(line), highlight=False, markup=False, soft_wrap=True)
    if options.json:
        write_text_atomically(options.json, json.dumps(_document(found), indent=1) + "\n")
    return DONE if found.whole else FAILED


def _summary(found: "Verification") -> str:
    return "; ".join(
        part
        for part in (
            f"{counted(found.images, 'image')} in {counted(found.classes, 'class', 'classes')}, {found.seconds:.1f} s"
            f" ({found.images_per_second:,.0f} images/s): {len(found.broken):,} broken",
            f"{len(found.one_colour):,} of one colour, the first {found.one_colour[0]}" if found.one_colour else "",
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
        "one_colour": found.one_colour,
        "checksums": found.checksums,
        "seconds": round(found.seconds, 3),
        "images_per_second": round(found.images_per_second, 1),
    }
