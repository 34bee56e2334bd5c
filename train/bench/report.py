"""Report of a bench: its results as tables on the screen and as a JSON file."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from simsiam.pipeline.atomic_write import write_text_atomically
from simsiam.train.bench.rates import Result
from simsiam.train.environment import describe_environment
from simsiam.train.terminal.words import rate_text


def print_loader_results(results: Sequence[Result], console: Console) -> None:
    """Show the rows of `simsiam bench loader`: how fast they are, then what they cost."""
    needed = results[0]["needed_images_per_second"]
    speed = _table("row", "images/s", "20–80 %", "views/s", "% of\nceiling", f"% of\n{needed:,.0f}")
    cost = _table("row", "seconds\nto open", "first epoch,\nimages/s", "CPU ms\nper image", "% of\ncores", "MiB")
    baseline = results[0].get("baseline")
    if baseline:
        speed.add_column("times\nbaseline", justify="right")
    for result in results:
        low, high = result["images_per_second_20_80"]
        speed.add_row(
            result["name"],
            rate_text(result["images_per_second"]),
            f"{rate_text(low)}–{rate_text(high)}",
            rate_text(result["views_per_second"]),
            f"{result['percent_of_synthetic']:.1f}",
            f"{100 * result['images_per_second'] / needed:.1f}",
            *([f"{result['times_baseline']:.2f}"] if baseline else []),
        )
        cost.add_row(
            result["name"],
            f"{result['opening_seconds']:.1f}",
            f"{result['first_epoch_images_per_second']:,.0f}",
            f"{result['cpu_milliseconds_per_image']:.2f}",
            f"{result['cpu_percent_of_cores']:.0f}",
            f"{result['peak_memory_mib']:,.0f}",
        )
    console.print(speed, cost)
    if baseline:
        console.print(f"The baseline is {baseline}.")


def print_convert_results(results: Sequence[Result], console: Console) -> None:
    """Show the rows of `simsiam bench convert`."""
    table = _table("row", "images/s", "in each round", "MiB written", "times\nffcv-writer")
    for result in results:
        ratio = result.get("times_ffcv_writer")
        table.add_row(
            result["name"],
            f"{result['images_per_second']:,.0f}",
            ", ".join(f"{rate:,.0f}" for rate in result["images_per_second_by_round"]),
            f"{result['file_mib']:,.1f}",
            "" if ratio is None else f"{ratio:.2f}",
        )
    console.print(table)


def print_step_and_train_results(results: Sequence[Result], console: Console) -> None:
    """Show the rows of `simsiam bench step` or `bench train`: how fast they are, then where the time goes."""
    with_ceiling, with_baseline = ("percent_of_synthetic" in results[0]), ("times_baseline" in results[0])
    on_gpu = "percent_of_memory_bound" in results[0]
    speed = _table("row", "images/s", "20–80 %", "views/s", "ms a\nstep", "wait\n%")
    for heading, shown in (("% of\nceiling", with_ceiling), ("times\nbaseline", with_baseline)):
        if shown:
            speed.add_column(heading, justify="right")
    stages = dict.fromkeys(stage for result in results for stage in result["stage_milliseconds"])
    work = _table("row", *(f"{stage}\nms" for stage in stages), "TFLOP\n/s", "% of\nproducts")
    if on_gpu:
        work.add_column("% of mem-\nory bound", justify="right")
    work.add_column("GPU MiB" if on_gpu else "MiB", justify="right")
    for result in results:
        low, high = result["images_per_second_20_80"]
        speed.add_row(
            result["name"],
            rate_text(result["images_per_second"]),
            f"{rate_text(low)}–{rate_text(high)}",
            rate_text(result["views_per_second"]),
            f"{result['milliseconds_per_step']:,.1f}",
            f"{result['wait_percent']:.1f}",
            *([f"{result['percent_of_synthetic']:.1f}"] if with_ceiling else []),
            *([f"{result['times_baseline']:.2f}"] if with_baseline else []),
        )
        times = result["stage_milliseconds"]
        work.add_row(
            result["name"],
            *(f"{times[stage]:,.1f}" if stage in times else "" for stage in stages),
            f"{result['tflops_per_second']:,.{2 if result['tflops_per_second'] >= 1 else 3}f}",
            f"{result['percent_of_products']:.0f}",
            *([f"{result['percent_of_memory_bound']:.0f}"] if on_gpu else []),
            f"{result['peak_device_memory_mib' if on_gpu else 'peak_memory_mib']:,.0f}",
        )
    console.print(speed, work)
    compared = [result for result in results if result["name"] != result.get("baseline")]
    if with_baseline and compared:
        ratio = compared[0]
        low, high = ratio["times_baseline_range"]
        console.print(
            f"{ratio['name']} takes {ratio['times_baseline']:.2f} times as many images a second as {ratio['baseline']},"
            f" between {low:.2f} and {high:.2f} in the rounds.",
            highlight=False,
        )


def _table(*headings: str) -> Table:
    name, *numbers = headings
    table = Table(box=box.SIMPLE_HEAD, padding=0, header_style="")
    table.add_column(name, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right")
    return table


def write_results(results: Sequence[Result], path: Path) -> None:
    """Write environment and results as JSON."""
    document = {"environment": describe_environment(), "results": list(results)}
    write_text_atomically(path, json.dumps(document, indent=2) + "\n")
