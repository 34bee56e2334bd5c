"""`simsiam bench step`: images per second of training steps on crops that are ready on the device.

What a result holds, and how it is computed: `step_and_train_results.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from simsiam.train.bench.pinned_process import PinnedProcess
from simsiam.train.bench.rates import Result
from simsiam.train.bench.rows import StepRowName, check_names
from simsiam.train.bench.step_and_train_results import measure_rows, seconds_of_round
from simsiam.train.bench.step_contenders import StepSettings
from simsiam.train.bench.turns import StartRow
from simsiam.train.config import PretrainConfig


def bench_steps(
    config: PretrainConfig,
    names: Sequence[StepRowName],
    *,
    seconds: float,
    rounds: int,
    trace: Path | None = None,
    product_side: int | None = None,
    say: Callable[[str], None] = lambda text: None,
    start_row: StartRow = PinnedProcess,
) -> list[Result]:
    """Measure each row for `seconds`, a share of them in each of the `rounds`; rows are compared with `baseline`.

    `config` holds model, size of the views, batch, precision, compilation and device. Each row has a process of its
    own, on all cores that this program may use, and is idle while another one is measured. `trace` is a file for a
    trace of the first row's steps; for `product_side` see `measure_products`. `say` is told what is measured now;
    `start_row` starts the process of a row. See `results_of_steps` for what is returned.

    Raises UsageError for settings that can't work; RunError if a row's process dies or runs out of memory.
    """
    check_names(names, get_args(StepRowName))
    round_seconds = seconds_of_round(seconds, rounds)
    rows: dict[str, StepSettings] = {
        name: StepSettings(name, _configured(config, name), None, round_seconds, product_side=product_side)
        for name in names
    }
    return measure_rows(rows, rounds, trace=trace, say=say, start_row=start_row)


def _configured(config: PretrainConfig, name: StepRowName) -> PretrainConfig:
    # No source: the crops are made on the device.
    config = replace(config, data=replace(config.data, path=None, backend="synthetic", workers=0))
    match name:
        case "ours-fp32":
            return replace(config, precision="fp32")
        case "ours-bf16":
            return replace(config, precision="bf16")
        case "ours-compiled":
            return replace(config, compile=config.compile if config.compile != "off" else "default")
        case "ours-fused":
            return replace(config, fused_batch_norm="on")
        case "ours-graphed":
            return replace(config, cuda_graph=True)
    return config
