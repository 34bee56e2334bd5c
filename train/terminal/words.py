"""Numbers and names as words for the terminal: counts, rates, durations, and text kept on one line."""


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return the number with thousands separated, and the word in its form; `many` is by default `one` with an s."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def rate_text(rate: float) -> str:
    """Return a rate without decimals, or with one below 10: `4.2`, `1,234`."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def duration(seconds: float) -> str:
    """Return hours, minutes and seconds as 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def on_one_line(text: str) -> str:
    """Escape what can't be printed: the name of a file may hold a newline, or codes that drive a terminal."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
