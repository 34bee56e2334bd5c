"""The error of a broken image → the same with what its user can do."""

from collections.abc import Iterator
from contextlib import contextmanager

from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.plan import CropPlan


@contextmanager
def ways_out(plan: CropPlan, options: str) -> Iterator[None]:
    """Add to an ImageError how to be rid of the image, and the `options` that go on without it."""
    try:
        yield
    except ImageError as error:
        if plan.on_broken == "error":
            remedy = "convert the images again with --check full" if isinstance(plan.source, Beton) else "take it out"
            error.add_note(f"{remedy} (simsiam verify lists all such images), or go on without it: {options}")
        raise
