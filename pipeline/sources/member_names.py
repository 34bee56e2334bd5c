"""Names of an archive's members: which are hidden, and which can't be those of images below its root."""

import re


def is_hidden(name: bytes) -> bool:
    """Return whether a file or a folder of its path has a leading dot: no image, as in a folder."""
    # Most names have no such sign; splitting millions of them would take seconds.
    if b"/." not in b"/" + name:
        return False
    return any(part.startswith(b".") and part not in (b".", b"..") for part in name.split(b"/"))


def refuse_name(name: bytes) -> str | None:
    """Return why a name leads out of the archive, or can't be kept; None for a good one."""
    if name.startswith(b"/") or re.match(rb"[A-Za-z]:/", name):
        return "its name is an absolute path"
    if b".." in name.split(b"/"):
        return "its name leads out of the archive"
    if b"\0" in name:
        return "its name contains a zero byte"
    return None
