"""Why there are no images at a path, when nothing can be opened there."""

import re
import stat
from pathlib import Path
from typing import NoReturn

from simsiam.pipeline.errors import UsageError

# As it was written, or as a Path, which joins the slashes; a single letter is a drive.
_ADDRESS = re.compile(r"([a-zA-Z][\w+.-]+):/|pipe:")


def refuse_address(path: str | Path) -> None:
    """Raise UsageError when a path that doesn't exist is an address, such as s3://bucket/images."""
    found = _ADDRESS.match(str(path))
    if found and not Path(path).exists():
        if (found[1] or "").lower() == "file":
            raise UsageError(f"{path} is an address; give the path alone: /{str(path)[found.end() :].lstrip('/')}.")
        address = str(path) if "://" in str(path) else str(path).replace(":/", "://", 1)
        raise UsageError(f"{address} is an address; copy it to this machine first, and give the path of the copy.")


def refuse_missing(path: Path, advice: str) -> NoReturn:
    """Raise UsageError for a path that is neither a folder nor a regular file, saying which of the causes it is."""
    refuse_address(path)
    if path.is_symlink() and not path.exists():
        raise UsageError(
            f"There is no folder or file {path}: it is a link to {path.readlink()}, which doesn't exist; {advice}."
        )
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{path} is neither a folder nor a regular file; {advice}.")
    raise UsageError(f"There is no folder or file {path}; {advice}.")
