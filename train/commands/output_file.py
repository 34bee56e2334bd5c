"""The file a command is to write → a refusal where its name would say the wrong thing."""

from pathlib import Path

from simsiam.pipeline.errors import UsageError


def check_ending(out: Path, ending: str) -> None:
    """Raise UsageError unless the name `out` ends in `ending`, such as `.png`."""
    if out.suffix != ending:
        raise UsageError(f"The file {out} would hold a {ending} under another name; give a name that ends in {ending}.")
