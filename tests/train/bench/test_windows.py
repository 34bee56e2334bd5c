from collections.abc import Iterator, Sequence

from simsiam.train.bench.windows import Window, time_window, time_windows


class Clock:
    """Batches of 8 images, each of which lets so many seconds pass; a clock that shows them."""

    def __init__(self, seconds_of_batches: Sequence[float]) -> None:
        self.now = 100.0
        self._waits = seconds_of_batches
        self.batches = self._batches()
        self.waited_for_device: list[float] = []

    def __call__(self) -> float:
        return self.now

    def synchronize(self) -> None:
        self.waited_for_device.append(self.now)
        self.now += 0.5

    def _batches(self) -> Iterator[int]:
        for wait in self._waits:
            self.now += wait
            yield 8


def test_window_ends_with_the_first_batch_after_its_time() -> None:
    clock = Clock([0.25] * 9)
    assert time_window(clock.batches, 0.9, clock=clock) == Window(32, 1.0)
    assert time_window(clock.batches, 1.0, clock=clock) == Window(32, 1.0)


def test_window_holds_the_least_and_never_more_than_the_most() -> None:
    clock = Clock([0.25] * 20)
    assert time_window(clock.batches, 0.1, least=6, clock=clock) == Window(48, 1.5)
    assert time_window(clock.batches, 9.0, most=3, clock=clock) == Window(24, 0.75)


def test_device_is_waited_for_at_the_ends_of_a_window_only_and_the_last_wait_counts() -> None:
    clock = Clock([0.25] * 4)
    window = time_window(clock.batches, 1.0, synchronize=clock.synchronize, clock=clock)
    assert clock.waited_for_device == [100.0, 101.5]
    assert window == Window(32, 1.5)


def test_windows_follow_each_other_without_a_gap() -> None:
    # Two workers hand over two batches at a time; windows of a single batch would show 8 / 0 and 8 / 2 images/s.
    clock = Clock([2.0, 0.0] * 6)
    windows = time_windows(clock.batches, 11.9, 1.0, least=4, clock=clock)
    assert windows == [Window(32, 4.0)] * 3
    assert next(clock.batches, None) is None
