"""Summary of a finished run on the terminal: its kNN accuracy and where its files are."""

from pathlib import Path
from typing import Any

from rich.console import Console


def print_summary(summary: dict[str, Any], run_dir: Path, console: Console) -> None:
    """Print the kNN accuracy, if it was measured, and the files of the run folder."""
    if "knn_random" in summary and "knn" in summary:
        console.print(
            f"kNN accuracy: {100 * summary['knn_random']:.2f} % at random initialisation,"
            f" {100 * summary['knn']:.2f} % trained",
            highlight=False,
        )
    for what, name in (
        ("Contact sheet", "plots/views.png"),
        ("Curves", "plots/curves.png"),
        ("Report", "report.html"),
        ("Summary", "summary.json"),
        ("Checkpoints", "checkpoints"),
    ):
        if (run_dir / name).exists():
            console.print(f"{what}: {run_dir / name}", highlight=False, markup=False, soft_wrap=True)
