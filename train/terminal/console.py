"""Console: progress and metrics in one live panel on a terminal, in plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from simsiam.train.run.record import METRICS, Record
from simsiam.train.terminal.words import duration, rate_text

_PANEL_WIDTH = 76
_PLAIN_SECONDS = 10.0  # between two lines where there is no terminal


def is_live(console: Console) -> bool:
    """Whether lines can be redrawn: on a terminal that isn't dumb, and not in a file under FORCE_COLOR."""
    return console.is_terminal and not console.is_dumb_terminal and console.file.isatty()


@contextmanager
def show_progress(console: Console, description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to call with (done, total), which shows rate and time left; before its first call, nothing."""
    started = time.perf_counter()

    def rate_and_rest(done: int, total: int) -> str:
        seconds = max(time.perf_counter() - started, 1e-9)
        rest = duration((total - done) * seconds / max(done, 1))
        return f"{rate_text(done / seconds)} {unit}/s, {rest} left"

    if is_live(console):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(description, total=None, visible=False, rate="")

            def show(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total, visible=True, rate=rate_and_rest(done, total))

            yield show
        return

    last = started

    def say(done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if now - last >= _PLAIN_SECONDS:
            last = now
            console.print(f"{description}: {done:,} of {total:,}, {rate_and_rest(done, total)}", highlight=False)

    yield say


class TrainingConsole:
    """One live panel on a terminal: loss and spread, learning rate, speed and waiting, memory, steps and time left.

    Elsewhere one plain line per record.
    """

    def __init__(self, console: Console, first_step: int, total_steps: int, healthy_std: float) -> None:
        """Show steps from `first_step` on; `healthy_std` is 1/√d."""
        self._healthy_std = healthy_std
        self._console = console
        self._total_steps = total_steps
        self._start: tuple[int, float] | None = None
        """The first step that was taken here, and when: the time left is estimated from the steps after it."""
        self._panel: Live | None = None
        self._told_of_replaced = False
        if is_live(console) and not console.quiet:  # a quiet panel would swallow the output of others
            self._figures = Text("starting")
            steps = TextColumn("step"), MofNCompleteColumn()
            times = TimeElapsedColumn(), TextColumn("· {task.fields[left]}")
            self._bar = Progress(BarColumn(None), *steps, *times, console=console, expand=True)
            self._task = self._bar.add_task("", total=total_steps, completed=first_step, left="")
            panel = Panel(Group(self._figures, self._bar), title="simsiam", title_align="left", width=_PANEL_WIDTH)
            self._panel = Live(panel, console=console, refresh_per_second=4)

    def __enter__(self) -> "TrainingConsole":
        if self._panel:
            self._panel.start()
            self._console.show_cursor(True)  # or it stays hidden if a second signal ends the process at once
        return self

    def __exit__(self, *_: object) -> None:
        if self._panel:
            self._panel.stop()

    def step(self, step: int) -> None:
        """Move the bar to the number of steps taken."""
        if self._start is None:
            self._start = step, time.perf_counter()
        if self._panel:
            self._bar.update(self._task, completed=step, left=self._rest(step))

    def record(self, record: Record) -> None:
        """Show one record of metrics.jsonl."""
        line = record.line()
        rows: dict[int, list[str]] = {}
        for key, metric in METRICS.items():
            if metric.console and key in line:
                rows.setdefault(metric.row, []).append(metric.on_console(line[key], self._healthy_std))
        lines = ["  ".join(rows[row]) for row in sorted(rows)]
        if record.replaced_images is not None and not self._told_of_replaced:
            self._told_of_replaced = True
            self.say(
                "An image could not be decoded, and was replaced by the next good one;"
                " `simsiam verify` with the path of the images lists the broken ones."
            )
        if self._panel:
            self._figures.plain = "\n".join(lines)
            return
        parts = f"step {record.step}/{self._total_steps}", *lines, self._rest(record.step)
        self.say("  ".join(part for part in parts if part))

    def _rest(self, step: int) -> str:
        """Return the time left; empty after the first step alone, which may include compilation."""
        first, began = self._start or (step, 0.0)
        if step == first < self._total_steps:
            return ""
        seconds = (time.perf_counter() - began) / max(step - first, 1) * (self._total_steps - step)
        return f"{duration(seconds)} left"

    def say(self, text: str) -> None:
        """Print a line above the panel."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
