"""`simsiam bench loader`: images per second of each row that reads a source, measured in turns."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.open_loader import choose_backend
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.bench.loader_batches import RowSettings
from simsiam.train.bench.loader_results import results_of
from simsiam.train.bench.loader_row import measure_row
from simsiam.train.bench.pinned_process import PinnedProcess, first_cores
from simsiam.train.bench.rates import Result
from simsiam.train.bench.rows import LoaderRowName, check_loader_row
from simsiam.train.bench.turns import StartRow, take_turns
from simsiam.train.bench.windows import check_positive
from simsiam.train.config import DeviceName
from simsiam.train.precision import open_device


def bench_loaders(
    source: Path,
    names: Sequence[LoaderRowName],
    *,
    batch_size: int,
    size: int,
    workers: int | None,
    seconds: float,
    rounds: int,
    device: DeviceName,
    needed_images_per_second: float,
    images: Path | None = None,
    baseline: LoaderRowName | None = None,
    augment: bool = False,
    say: Callable[[str], None] = lambda text: None,
    start_row: StartRow = PinnedProcess,
) -> list[Result]:
    """Measure each row for `seconds`, a share of them in each of the `rounds`, the baseline first, the ceiling last.

    Each row has a process of its own, on the same `workers` cores (one for 0 workers), and is idle while another one
    is measured. `images` is the folder for rows that read one, by default the source; the other rows are compared
    with `baseline`. `say` is told what is measured now; `start_row` starts the process of a row. See
    `loader_results.results_of` for what is returned.

    Raises UsageError for wrong settings, if there are too few images for a batch, or if a row lacks what it needs;
    RunError if a row's process dies.
    """
    check_positive(seconds=seconds, rounds=rounds, needed_images_per_second=needed_images_per_second)
    where, workers = open_device(device), worker_count(workers)
    plan = CropPlan(open_source(source), Augmentation(), size, batch_size)
    images = source if images is None and source.is_dir() else images

    chosen: dict[LoaderRowName, LoaderRowName] = {
        name: choose_backend(plan, where)[0] if name == "auto" else name for name in (*names, baseline) if name
    }
    rows: dict[LoaderRowName, None] = dict.fromkeys(
        chosen[name] for name in (baseline, *names) if name and chosen[name] != "synthetic"
    )
    rows["synthetic"] = None
    for name in rows:
        check_loader_row(name, source, images, gpu=where.type == "cuda")

    cores = first_cores(max(workers, 1))
    common = RowSettings("synthetic", source, images, batch_size, size, workers, device, augment, seconds / rounds)
    settings_of_rows = {name: replace(common, name=name) for name in rows}
    measurements = take_turns(
        measure_row, settings_of_rows, cores, rounds, first="First epoch", say=say, start_row=start_row
    )
    settings = {
        "batch_size": batch_size,
        "size": size,
        "workers": workers,
        "cores": len(cores),
        "device": where.type,
        "augment": augment,
    }
    results = results_of(measurements, len(cores), baseline and chosen[baseline], needed_images_per_second)
    return [result | settings for result in results]
