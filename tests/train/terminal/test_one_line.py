from simsiam.train.terminal.one_line import on_one_line


def test_what_cannot_be_printed_is_escaped_and_the_rest_is_left() -> None:
    assert on_one_line("a → é日本 'b'") == "a → é日本 'b'"
    assert on_one_line("two\nlines\r \x1b[31m\u202e") == "two\\nlines\\r \\x1b[31m\\u202e"
