"""Output file of a command: refused before the work starts if it can't be written."""

import os
from pathlib import Path

from simsiam.pipeline.errors import UsageError


def check_output(out: Path, ending: str) -> None:
    """Raise UsageError if `out` doesn't end in `ending`, such as `.png`, or can't be written.

    Nothing is written yet; missing folders are made together with the file.
    """
    if out.suffix != ending:
        raise UsageError(f"The file {out} would hold a {ending} under another name; give a name that ends in {ending}.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file that ends in {ending}.")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise UsageError(f"{out} can't be written, since {nearest} is a file; choose another path.")
    if not os.access(nearest, os.W_OK):
        raise UsageError(f"{out} can't be written, since you may not write into {nearest}; choose another path.")
