import time
from collections.abc import Callable

_DEADLINE_SECONDS = 30


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds that another thread or process brings about; fails when it never does."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
