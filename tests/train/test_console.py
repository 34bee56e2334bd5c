import sys
from io import StringIO

import pytest
from rich.console import Console

from simsiam.train import console as module
from simsiam.train.console import TrainingConsole, duration, show_progress

RECORD = {
    "step": 50,
    "epoch": 1.5,
    "loss": -0.61234,
    "output_std": 0.11,
    "learning_rate": 0.05,
    "images_per_second": 1234.0,
    "views_per_second": 2468.0,
    "wait_percent": 12.0,
}


@pytest.fixture
def screen() -> StringIO:
    return StringIO()


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00:00"), (59.9, "0:00:59"), (3723, "1:02:03"), (360_000, "100:00:00")]
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_plain_line_of_a_record(screen: StringIO) -> None:
    with TrainingConsole(Console(file=screen, width=40), first_step=0, total_steps=50) as live:
        live.step(50)
        live.record(RECORD, healthy_std=0.1)
    assert screen.getvalue() == (
        "step 50/50  epoch 1.50  loss -0.6123  std 1.10/√d  lr 0.05"
        "  1,234 images/s  2,468 views/s  wait 12 %  0:00:00 left\n"
    )


def test_small_rates_keep_a_digit_behind_the_point(screen: StringIO) -> None:
    live = TrainingConsole(Console(file=screen), first_step=0, total_steps=50)
    live.record(RECORD | {"images_per_second": 4.24, "views_per_second": 9.96}, healthy_std=0.1)
    assert "  4.2 images/s  10.0 views/s" in screen.getvalue()


def test_time_left_counts_only_the_steps_of_this_process(screen: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    live = TrainingConsole(Console(file=screen), first_step=40, total_steps=100)
    now[0] = 20.0
    live.record(RECORD, healthy_std=0.1)  # 10 steps in 20 s, 50 to go
    assert screen.getvalue().endswith("0:01:40 left\n")


def test_terminal_has_one_live_panel(screen: StringIO) -> None:
    terminal = Console(file=screen, force_terminal=True, width=200, color_system=None)
    with TrainingConsole(terminal, first_step=0, total_steps=100) as live:
        live.step(50)
        live.record(RECORD, healthy_std=0.1)
        live.say("kNN accuracy [at] random")
    text = screen.getvalue()
    assert "loss -0.6123" in text and "50/100" in text and "kNN accuracy [at] random" in text
    assert "step 50/100" not in text


def test_panel_counts_replaced_images_and_tells_of_the_first(screen: StringIO) -> None:
    terminal = Console(file=screen, force_terminal=True, width=200, color_system=None)
    with TrainingConsole(terminal, first_step=0, total_steps=100) as live:
        live.record(RECORD, healthy_std=0.1)
        for replaced in (1, 1234):
            live.record(RECORD | {"replaced_images": replaced, "gpu_memory_gib": 12.34}, healthy_std=0.1)
    text = screen.getvalue()
    last_panel = [line.strip("│ ") for line in text[text.rindex("╭") :].splitlines()]
    assert last_panel[1:4] == [
        "epoch 1.50  loss -0.6123  std 1.10/√d  lr 0.05",
        "1,234 images/s  2,468 views/s  wait 12 %  GPU 12.3 GiB",
        "broken images replaced: 1,234",
    ]
    assert "step   0/100" in last_panel[4]
    assert text.count("An image could not be decoded, and the next good one took its place") == 1


def test_quiet_terminal_has_no_panel_that_would_swallow_what_others_print(
    screen: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    quiet = Console(file=screen, force_terminal=True, quiet=True)
    with TrainingConsole(quiet, first_step=0, total_steps=100) as live:
        live.record(RECORD, healthy_std=0.1)
        print("a warning", file=sys.stderr)
        assert stderr.getvalue() == "a warning\n"
    assert screen.getvalue() == ""


def test_progress_is_silent_when_it_is_never_called(screen: StringIO) -> None:
    with show_progress(Console(file=screen), "Converting", "images"):
        pass
    assert screen.getvalue() == ""


def test_plain_progress_speaks_every_ten_seconds(screen: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    with show_progress(Console(file=screen, width=200), "Converting", "images") as progress:
        for second in range(1, 21):
            now[0] = float(second)
            progress(second * 100, 4000)
    assert screen.getvalue().splitlines() == [
        "Converting: 1,000 of 4,000, 100 images/s, 0:00:30 left",
        "Converting: 2,000 of 4,000, 100 images/s, 0:00:20 left",
    ]


def test_terminal_progress_shows_count_and_rate(screen: StringIO) -> None:
    terminal = Console(file=screen, force_terminal=True, width=120, color_system=None)
    with show_progress(terminal, "Converting", "images") as progress:
        progress(30, 40)
    text = screen.getvalue()
    assert "Converting" in text and "30/40" in text and "images/s" in text and "left" in text
