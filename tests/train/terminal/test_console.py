import sys
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from simsiam.train.run.record import Record
from simsiam.train.terminal import console as module
from simsiam.train.terminal.console import TrainingConsole, show_progress
from simsiam.train.terminal.words import duration

RECORD = Record(
    step=50,
    epoch=1.5,
    loss=-0.61234,
    output_std=0.11,
    learning_rate=0.05,
    images_per_second=1234.0,
    views_per_second=2468.0,
    wait_percent=12.0,
)


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def screen() -> StringIO:
    return StringIO()


@pytest.fixture
def terminal() -> Console:
    return Console(file=Terminal(), width=200, color_system=None)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0:00:00"), (59.9, "0:00:59"), (3723, "1:02:03"), (360_000, "100:00:00")]
)
def test_duration(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_plain_line_of_a_record(screen: StringIO) -> None:
    with TrainingConsole(Console(file=screen, width=40), first_step=0, total_steps=50, healthy_std=0.1) as live:
        live.step(50)
        live.record(RECORD)
    assert screen.getvalue() == (
        "step 50/50  epoch 1.50  loss -0.6123  std 1.10/√d  lr 0.05"
        "  1,234 images/s  2,468 views/s  wait 12 %  0:00:00 left\n"
    )


def test_time_left_is_told_by_the_steps_that_were_taken_here(screen: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what came before the first of them nor the first itself, which may be compiled, counts."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    live = TrainingConsole(Console(file=screen, width=200), first_step=40, total_steps=100, healthy_std=0.1)
    now[0] = 1000.0
    live.step(41)
    live.record(replace(RECORD, step=41))
    assert screen.getvalue().endswith("wait 12 %\n")
    now[0] = 1018.0
    live.step(50)
    live.record(RECORD)  # 9 steps in 18 s, 50 to go
    assert screen.getvalue().endswith("0:01:40 left\n")


def test_time_left_is_told_on_a_terminal_however_slow_the_steps_are(
    terminal: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    with TrainingConsole(terminal, first_step=0, total_steps=10, healthy_std=0.1) as live:
        for step in range(1, 4):
            now[0] = 100.0 * step
            live.step(step)
    assert "3/10" in text_on(terminal) and "0:11:40 left" in text_on(terminal)


def text_on(terminal: Console) -> str:
    assert isinstance(terminal.file, Terminal)
    return terminal.file.getvalue()


def test_terminal_has_one_live_panel(terminal: Console) -> None:
    with TrainingConsole(terminal, first_step=0, total_steps=100, healthy_std=0.1) as live:
        live.step(50)
        live.record(RECORD)
        live.say("kNN accuracy [at] random")
    text = text_on(terminal)
    assert "loss -0.6123" in text and "50/100" in text and "kNN accuracy [at] random" in text
    assert "step 50/100" not in text


def test_cursor_can_be_seen_all_along(terminal: Console) -> None:
    with TrainingConsole(terminal, first_step=0, total_steps=100, healthy_std=0.1):
        text = text_on(terminal)
        assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.parametrize("place", ["dumb terminal", "file with FORCE_COLOR"])
def test_where_nothing_can_be_redrawn_there_are_plain_lines(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, value = {"dumb terminal": ("TERM", "dumb"), "file with FORCE_COLOR": ("FORCE_COLOR", "1")}[place]
    monkeypatch.setenv(name, value)
    screen = Terminal() if place == "dumb terminal" else StringIO()
    console = Console(file=screen, width=200)
    assert console.is_terminal
    with TrainingConsole(console, first_step=0, total_steps=100, healthy_std=0.1) as live:
        live.step(50)
        live.record(RECORD)
        with show_progress(console, "Converting", "images") as progress:
            progress(30, 40)
        assert "step 50/100" in screen.getvalue() and screen.getvalue().count("\n") == 1


def test_panel_counts_replaced_images_and_tells_of_the_first(terminal: Console) -> None:
    with TrainingConsole(terminal, first_step=0, total_steps=100, healthy_std=0.1) as live:
        live.record(RECORD)
        for replaced in (1, 1234):
            live.record(replace(RECORD, replaced_images=replaced, gpu_memory_gib=12.34))
    text = text_on(terminal)
    last_panel = [line.strip("│ ") for line in text[text.rindex("╭") :].splitlines()]
    assert last_panel[1:4] == [
        "epoch 1.50  loss -0.6123  std 1.10/√d  lr 0.05",
        "1,234 images/s  2,468 views/s  wait 12 %  GPU 12.3 GiB",
        "broken images replaced: 1,234",
    ]
    assert "step   0/100" in last_panel[4]
    assert text.count("An image could not be decoded, and was replaced by the next good one") == 1


def test_quiet_terminal_has_no_panel_that_would_swallow_what_others_print(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stderr, screen = StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    quiet = Console(file=screen, quiet=True)
    with TrainingConsole(quiet, first_step=0, total_steps=100, healthy_std=0.1) as live:
        live.record(RECORD)
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


def test_terminal_progress_shows_count_and_rate(terminal: Console) -> None:
    with show_progress(terminal, "Converting", "images") as progress:
        progress(30, 40)
    text = text_on(terminal)
    assert "Converting" in text and "30/40" in text and "images/s" in text and "left" in text
