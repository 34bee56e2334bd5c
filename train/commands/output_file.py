"""The file a command is to write → a place for it, or a refusal before the work begins."""

import os
from pathlib import Path

from simsiam.pipeline.errors import UsageError


def prepare_output(out: Path, ending: str) -> None:
    """Make the folder that `out` is to lie in.

    Raises UsageError when the name doesn't end in `ending`, such as `.png`, when it is a folder's, or when nothing can
    be written there.
    """
    if out.suffix != ending:
        raise UsageError(f"The file {out} would hold a {ending} under another name; give a name that ends in {ending}.")
    if out.is_dir():
        raise UsageError(f"{out} is a folder; give the name of a file that ends in {ending}.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {out.parent} can't be made ({error.strerror}); choose another place.") from None
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"Nothing can be written into the folder {out.parent}; choose another place.")
