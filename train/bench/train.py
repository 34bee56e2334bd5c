"""`simsiam bench train`: images per second of a whole training, from images to weights, measured in turns.

`wait_percent` of a row is the share of its measured time in which the step waited for the loader's next batch:
100 × Σ wait seconds / Σ seconds of its windows. `step_row` takes the times, and `step_results` divides them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.open_loader import check_backend, choose_backend
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.bench.pinned_process import PinnedProcess
from simsiam.train.bench.rates import Result
from simsiam.train.bench.rows import TrainRowName, check_folder, is_baseline
from simsiam.train.bench.step import measure_rows
from simsiam.train.bench.step_contenders import StepSettings
from simsiam.train.bench.turns import StartRow
from simsiam.train.config import PretrainConfig
from simsiam.train.precision import open_device


def bench_train(
    config: PretrainConfig,
    names: Sequence[TrainRowName],
    *,
    seconds: float,
    rounds: int,
    images: Path | None = None,
    trace: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    start_row: StartRow = PinnedProcess,
) -> list[Result]:
    """Measure each row for `seconds`, a share of them in each of the `rounds`, the synthetic ceiling last.

    `config` holds source, backend, workers, model, size of the views, batch, precision, compilation and device;
    `images` is the folder that the baseline reads, by default the source. Everything else is as in `bench_steps`.
    Loader and step share the cores, as they do in a training.

    Raises UsageError when there are too few images for a batch, or when a row lacks what it needs; RunError when a
    row's process dies or runs out of memory.
    """
    data = config.data
    assert data.path is not None
    plan = CropPlan(open_source(data.path), Augmentation(), data.size, config.batch_size)
    backend = choose_backend(plan, open_device(config.device))[0] if data.backend == "auto" else data.backend
    check_backend(backend, plan)
    images = data.path if images is None and data.path.is_dir() else images
    config = replace(config, data=replace(data, backend=backend, workers=worker_count(data.workers)))
    rows: dict[str, StepSettings] = {}
    ordered: list[TrainRowName] = [*(name for name in names if name != "synthetic"), "synthetic"]
    for name in ordered:
        if is_baseline(name):
            check_folder(name, data.path, images)
        each = replace(config, data=replace(config.data, backend="synthetic")) if name == "synthetic" else config
        folder = images if is_baseline(name) else None
        rows[name] = StepSettings(name, each, folder, seconds / max(rounds, 1))
    results = measure_rows(rows, seconds, rounds, trace, "synthetic", say, start_row)
    return [result | {"workers": config.data.workers} for result in results]
