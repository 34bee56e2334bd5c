"""`simsiam bench train`: images per second of whole trainings, from a source's images to updated weights.

`wait_percent` of a row is the share of its measured time in which the step waited for the loader's next batch:
100 × Σ wait seconds / Σ seconds of its windows. `step_row` takes the times; `step_and_train_results` computes this and
all else that a result holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.open_loader import check_backend, choose_backend
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.bench.pinned_process import PinnedProcess
from simsiam.train.bench.rates import Result
from simsiam.train.bench.rows import TrainRowName, check_folder, check_names, is_baseline
from simsiam.train.bench.step_and_train_results import measure_rows, seconds_of_round
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
    product_side: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    start_row: StartRow = PinnedProcess,
) -> list[Result]:
    """Measure each row for `seconds`, a share of them in each of the `rounds`, the synthetic ceiling last.

    `config` holds source, backend, workers, model, size of the views, batch, precision, compilation and device;
    `images` is the folder that the baseline reads, by default the source. Loader and step share the cores, as they do
    in a training. Everything else is as in `bench_steps`. See `results_of_steps` for what is returned.

    Raises UsageError for wrong settings, if there are too few images for a batch, or if a row lacks what it needs;
    RunError if a row's process dies or runs out of memory.
    """
    check_names(names, get_args(TrainRowName))
    data = config.data
    assert data.path is not None
    plan = CropPlan(open_source(data.path), Augmentation(), data.size, config.batch_size)
    backend = choose_backend(plan, open_device(config.device))[0] if data.backend == "auto" else data.backend
    check_backend(backend, plan)
    images = data.path if images is None and data.path.is_dir() else images
    config = replace(config, data=replace(data, backend=backend, workers=worker_count(data.workers)))
    synthetic = replace(config, data=replace(config.data, backend="synthetic"))
    round_seconds = seconds_of_round(seconds, rounds)
    rows: dict[str, StepSettings] = {}
    for name in names:
        if is_baseline(name):
            check_folder(name, data.path, images)
            rows[name] = StepSettings(name, config, images, round_seconds, product_side=product_side)
        elif name == "ours":
            rows[name] = StepSettings(name, config, None, round_seconds, product_side=product_side)
    rows["synthetic"] = StepSettings("synthetic", synthetic, None, round_seconds, product_side=product_side)
    results = measure_rows(rows, rounds, trace=trace, ceiling="synthetic", say=say, start_row=start_row)
    return [result | {"workers": config.data.workers} for result in results]
