"""How the pipeline reports progress."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total), both counts of the same thing, whenever `done` has grown."""
