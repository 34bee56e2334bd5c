"""Loader backends and a source → images per second, each beside the synthetic ceiling of the same run."""

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from simsiam.pipeline.draw import Augmentation
from simsiam.pipeline.loader import Backend, CropLoader, choose_backend, open_loader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.source import open_source
from simsiam.train.config import DeviceName
from simsiam.train.environment import describe_environment, worker_count
from simsiam.train.precision import open_device

Result = dict[str, Any]
_WARM_UP_STEPS = 3


def bench_loaders(
    source_path: Path,
    backends: Sequence[Backend],
    *,
    batch_size: int = 64,
    size: int = 224,
    workers: int | None = None,
    seconds: float = 10.0,
    device: DeviceName = "auto",
) -> list[Result]:
    """Measure each backend for `seconds` after a warm-up, the synthetic ceiling last; rates are medians over steps.

    Raises ValueError when there are too few images for a batch, or for a wrong name.
    """
    if seconds <= 0:
        raise ValueError(f"seconds is {seconds}; give a positive number.")
    where = open_device(device)
    plan = CropPlan(open_source(source_path), Augmentation(), size, batch_size)
    workers = worker_count(workers)
    results = []
    asked: list[Backend] = [*backends, "synthetic"]
    for backend in dict.fromkeys(asked):
        chosen = choose_backend(plan, where)[0] if backend == "auto" else backend
        loader = open_loader(chosen, plan, where, workers)
        try:
            results.append(
                {"name": chosen, "batch_size": batch_size, "size": size, "workers": workers}
                | _measure(loader, where, batch_size, seconds)
            )
        finally:
            loader.close()
    ceiling = results[-1]["images_per_second"]
    return [
        result | {"percent_of_synthetic": round(100 * result["images_per_second"] / ceiling, 2)} for result in results
    ]


def _measure(loader: CropLoader, device: torch.device, batch_size: int, seconds: float) -> Result:
    """Time whole steps: from asking for a batch until it is on the device."""
    durations: list[float] = []
    epoch = 0
    deadline = None
    while deadline is None or time.perf_counter() < deadline:
        crops = loader.epoch(epoch)
        asked = time.perf_counter()
        for _ in crops:
            if device.type == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            durations.append(now - asked)
            asked = now
            if deadline is None and len(durations) >= _WARM_UP_STEPS:
                durations.clear()
                deadline = now + seconds
            if deadline is not None and now >= deadline:
                break
        epoch += 1
    rate = batch_size * len(durations) / sum(durations)
    per_step = sorted(batch_size / duration for duration in durations)
    return {
        "images_per_second": round(rate, 1),
        "views_per_second": round(2 * rate, 1),
        "images_per_second_median_step": round(statistics.median(per_step), 1),
        "images_per_second_20_80": [round(per_step[int(share * (len(per_step) - 1))], 1) for share in (0.2, 0.8)],
        "steps": len(durations),
    }


def print_results(results: Sequence[Result], console: Console) -> None:
    """Show the results as a table."""
    table = Table("backend", "images/s", "views/s", "20–80 % of steps", "of synthetic")
    for result in results:
        low, high = result["images_per_second_20_80"]
        table.add_row(
            result["name"],
            f"{result['images_per_second']:,.0f}",
            f"{result['views_per_second']:,.0f}",
            f"{low:,.0f} – {high:,.0f}",
            f"{result['percent_of_synthetic']:.2f} %",
        )
    console.print(table)


def write_results(results: Sequence[Result], path: Path) -> None:
    """Write environment and results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": describe_environment(), "results": list(results)}, indent=2) + "\n")
