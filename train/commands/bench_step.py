"""`simsiam bench step`: how fast one training step is, stage by stage, next to the step that most trainings have."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from simsiam.train.bench.rows import StepRowName
from simsiam.train.config import DataConfig
from simsiam.train.terminal.arguments import parse
from simsiam.train.terminal.bench_options import StepOptions
from simsiam.train.terminal.exit_codes import DONE
from simsiam.train.terminal.options import INLINE


@dataclass(frozen=True)
class _StepOptions(StepOptions):
    seconds: float = 24.0


@dataclass(frozen=True)
class BenchStepOptions:
    """Measure training steps on crops that are ready on the device: nothing is read, decoded or waited for.

    Our step makes the views from the crops; the baseline's come ready from its loader. Each row runs in its own process
    on all cores, and they take turns. A rate is the median of windows of a second or more, after a warm-up; the times
    of the stages come from separate steps. For the whole way from images to weights see simsiam bench train.
    """

    rows: tuple[StepRowName, ...] = ("ours", "baseline", "baseline-amp")
    """What to measure: our step (ours), also in a given precision (ours-fp32, ours-bf16), through torch.compile
    (ours-compiled), with batch norm and ReLU as one operation (ours-fused; on a CPU ours has that) or as one CUDA graph
    (ours-graphed); and what most trainings have: one pass per view, channels-first, uncompiled, PyTorch's own layers,
    loss and SGD, in float32 (baseline) or mixed precision (baseline-amp)."""
    step: _StepOptions = field(default=_StepOptions(), metadata=INLINE)


def run(arguments: Sequence[str], prog: str) -> int:
    """Measure the rows, print the results and write them where asked."""
    options = parse(BenchStepOptions, arguments, prog)
    from simsiam.train.bench.report import print_step_and_train_results, write_results
    from simsiam.train.bench.step import bench_steps

    step, console = options.step, Console()
    step.check_outputs()
    results = bench_steps(
        step.config(DataConfig(size=step.size)),
        options.rows,
        seconds=step.seconds,
        rounds=step.rounds,
        trace=step.profile,
        say=console.print,
    )
    print_step_and_train_results(results, console)
    if step.json:
        write_results(results, step.json)
    return DONE
