from simsiam.train.terminal.rate_text import rate_text


def test_small_rates_keep_a_digit_behind_the_point() -> None:
    assert [rate_text(rate) for rate in (0.04, 4.24, 9.96, 10, 1234.5)] == ["0.0", "4.2", "10.0", "10", "1,234"]
