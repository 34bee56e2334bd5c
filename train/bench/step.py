"""`simsiam bench step`: images per second of training steps on crops that are on the device already, in turns."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.worker_count import available_cores
from simsiam.train.bench.pinned_process import PinnedProcess, first_cores
from simsiam.train.bench.rates import Result
from simsiam.train.bench.rows import StepRowName, is_baseline
from simsiam.train.bench.step_contenders import StepSettings
from simsiam.train.bench.step_results import step_results_of
from simsiam.train.bench.step_row import measure_steps
from simsiam.train.bench.turns import StartRow, take_turns
from simsiam.train.config import PretrainConfig
from simsiam.train.cuda_graph import check_cuda_graph
from simsiam.train.precision import choose_arithmetic, open_device


def bench_steps(
    config: PretrainConfig,
    names: Sequence[StepRowName],
    *,
    seconds: float,
    rounds: int,
    trace: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    start_row: StartRow = PinnedProcess,
) -> list[Result]:
    """Measure each row for `seconds`, a share of them in each of the `rounds`; rows are compared with `baseline`.

    `config` holds model, size of the views, batch, precision, compilation and device. Each row has a process of
    its own, on all cores that this program may use, and is idle while another one is measured. `trace` is a file for a
    trace of the first row's steps. `say` is told what is measured now. See `step_results_of` for what is returned.

    Raises UsageError for settings that can't work; RunError when a row's process dies or runs out of memory.
    """
    rows: dict[str, StepSettings] = {
        name: StepSettings(name, _configured(config, name), None, seconds / max(rounds, 1)) for name in names
    }
    return measure_rows(rows, seconds, rounds, trace, None, say, start_row)


def _configured(config: PretrainConfig, name: StepRowName) -> PretrainConfig:
    # The crops are made on the device: nothing is read.
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


def measure_rows(
    rows: dict[str, StepSettings],
    seconds: float,
    rounds: int,
    trace: Path | None,
    ceiling: str | None,
    say: Callable[[str], None],
    start_row: StartRow = PinnedProcess,
) -> list[Result]:
    """Measure rows in turns, the first of them traced, and return their results with the settings they share.

    They are compared with `baseline` if it is one of them, and with the row `ceiling` if there is one.
    """
    for name, value in {"seconds": seconds, "rounds": rounds}.items():
        if value <= 0:
            raise UsageError(f"{name} is {value}; give a positive number.")
    if not rows:
        raise UsageError("No row was named; give at least one.")
    for row in rows.values():
        device = open_device(row.config.device)
        choose_arithmetic(device, row.config.precision)
        check_cuda_graph(row.config, device, world_size=1)
    first = next(iter(rows))
    rows = rows | {first: replace(rows[first], trace=trace)}
    config, cores = rows[first].config, first_cores(available_cores())
    measurements = take_turns(measure_steps, rows, cores, rounds, first="First steps", say=say, start_row=start_row)
    results = step_results_of(measurements, config.batch_size, "baseline" if "baseline" in rows else None, ceiling)
    settings = {
        "arch": config.model.arch,
        "stem": config.model.stem,
        "size": config.data.size,
        "batch_size": config.batch_size,
        "cores": len(cores),
        "device": open_device(config.device).type,
    }
    return [
        result | settings | {"compile": "off" if is_baseline(rows[name].name) else rows[name].config.compile}
        for result, name in zip(results, rows, strict=True)
    ]
