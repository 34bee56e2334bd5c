"""`simsiam verify`: a set of images → every broken one with the reason, and exit code 1 if there is any."""

import json as json_format
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from simsiam.train.arguments import call
from simsiam.train.console import show_progress
from simsiam.train.exit_codes import DONE, FAILED


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
    from simsiam.pipeline.verify import verify

    console = Console()
    with show_progress(console, "Decoding", "images") as progress:
        found = verify(path, devkit=devkit, workers=workers, progress=progress)
    for name, reason in found.broken:
        console.print(f"broken: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    checked = ", every byte compared with the manifest's checksums" if found.checksums else ""
    console.print(
        f"{found.images:,} images decoded in {found.seconds:.1f} s{checked}: {len(found.broken):,} broken",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if json:
        document = {
            "path": str(found.path),
            "images": found.images,
            "checksums": found.checksums,
            "broken": [{"name": name, "reason": reason} for name, reason in found.broken],
            "seconds": round(found.seconds, 3),
        }
        write_text_atomically(json, json_format.dumps(document, indent=1) + "\n")
    return FAILED if found.broken else DONE


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(verify, arguments, prog)
