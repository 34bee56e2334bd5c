"""A backend's own package: why it can't be imported, in one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from simsiam.pipeline.errors import MissingError


@contextmanager
def backend_package(backend: str, requirement: str) -> Iterator[None]:
    """Import in this block what a backend needs of the package that `pip install REQUIREMENT` gives.

    Raises MissingError instead of ImportError or OSError, saying how to get the package.
    """
    package = requirement.partition("=")[0]
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingError(
            f"The {backend} backend needs the package {package}, which isn't installed ({error}): pip install"
            f" {requirement}, or use the torch backend."
        ) from None
    except (ImportError, OSError) as error:  # a library that it needs is missing, or of another version
        raise MissingError(
            f"The package {package} of the {backend} backend can't be loaded: {error}. Reinstall it, or use the torch"
            " backend."
        ) from None
