from simsiam.train.terminal.words import counted, on_one_line, rate_text


def test_words_follow_their_number() -> None:
    assert [counted(number, "image") for number in (0, 1, 1000)] == ["0 images", "1 image", "1,000 images"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]


def test_what_cannot_be_printed_is_escaped_and_the_rest_is_left() -> None:
    assert on_one_line("a → é日本 'b'") == "a → é日本 'b'"
    assert on_one_line("two\nlines\r \x1b[31m\u202e") == "two\\nlines\\r \\x1b[31m\\u202e"


def test_small_rates_keep_a_digit_behind_the_point() -> None:
    assert [rate_text(rate) for rate in (0.04, 4.24, 9.96, 10, 1234.5)] == ["0.0", "4.2", "10.0", "10", "1,234"]
