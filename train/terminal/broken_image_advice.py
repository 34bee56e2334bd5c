"""Advice added to the error of a broken image: what the user can do about it."""

from collections.abc import Iterator
from contextlib import contextmanager

from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.plan import OnBroken
from simsiam.pipeline.source import Source


@contextmanager
def broken_image_advice(source: Source, on_broken: OnBroken, options: str) -> Iterator[None]:
    """Add to an ImageError how to remove the image, and the `options` that continue without it."""
    try:
        yield
    except ImageError as error:
        if on_broken == "error":
            remedy = "convert the images again with --check full" if isinstance(source, Beton) else "take it out"
            error.add_note(f"{remedy} (simsiam verify lists all such images), or continue without it: {options}")
        raise
