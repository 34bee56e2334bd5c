"""Text with names of files in it → one line that a terminal shows, and obeys nothing of."""


def on_one_line(text: str) -> str:
    """Escape what can't be printed: a file may be called by a newline, or by what drives a terminal."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)
