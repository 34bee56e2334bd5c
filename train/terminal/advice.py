"""Advice for errors of the library, in the options of a command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from simsiam.pipeline.errors import DeadWorkerError, ImageError
from simsiam.pipeline.plan import OnBroken


@contextmanager
def broken_image_advice(source: Path | None, on_broken: OnBroken, options: str) -> Iterator[None]:
    """Add to an ImageError how to remove the image from `source`, and the `options` that continue without it."""
    try:
        yield
    except ImageError as error:
        if on_broken == "error":
            remedy = (
                "convert the images again with --check full"
                if source and source.expanduser().is_file()
                else "take it out"
            )
            error.add_note(f"{remedy} (simsiam verify lists all such images), or continue without it: {options}")
        raise


@contextmanager
def dead_worker_advice(kind: type[DeadWorkerError], options: str) -> Iterator[None]:
    """Add to an error of this `kind` how the command takes less memory: `options`, such as `fewer --workers`."""
    try:
        yield
    except kind as error:
        error.add_note(f"that is, {options}")
        raise
