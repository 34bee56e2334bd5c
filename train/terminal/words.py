"""A number and what it counts → both in words, as in `1 image` and `1,000 images`."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return the number with thousands separated, and the word in its form; `many` is by default `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
