"""A number of things per second → the number in words."""


def rate_text(rate: float) -> str:
    """Return a rate with as many digits as are worth reading: `4.2`, `1,234`."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
