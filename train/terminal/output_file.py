"""The file a command is to write → a refusal before the work begins where it can't be written."""

import os
from pathlib import Path

from simsiam.pipeline.errors import UsageError


def check_output(out: Path, ending: str) -> None:
    """Raise UsageError when the name doesn't end in `ending`, such as `.png`, or can't be written to.

    Nothing is written yet: the folders that `out` is to lie in are made with it.
    """
    if out.suffix != ending:
        raise UsageError(f"The file {out} would hold a {ending} under another name; give a name that ends in {ending}.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file that ends in {ending}.")
    nearest = next(folder for folder in out.absolute().parents if folder.exists())
    if not nearest.is_dir():
        raise UsageError(f"{out} can't be written, since {nearest} is a file; choose another place.")
    if not os.access(nearest, os.W_OK):
        raise UsageError(f"{out} can't be written, since you may not write into {nearest}; choose another place.")
