"""`simsiam bench step`: a model → how fast one training step is, stage by stage, beside the step that most have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from simsiam.train.bench.rows import StepRowName
from simsiam.train.config import DataConfig, DeviceName, ModelConfig, PrecisionName, PretrainConfig
from simsiam.train.terminal.arguments import call, split_at_commas
from simsiam.train.terminal.output_file import check_output


def bench_step(
    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50",
    stem: Literal["imagenet", "cifar"] = "imagenet",
    size: int = 224,
    batch_size: int = 64,
    rows: tuple[StepRowName, ...] = ("ours", "peer", "peer-amp"),
    precision: PrecisionName = "auto",
    compile: Literal["off", "default", "max-autotune"] = "off",
    seconds: float = 24.0,
    rounds: int = 3,
    device: DeviceName = "auto",
    profile: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure training steps on crops that lie ready on the device: nothing is read, decoded or waited for.

    Ours makes the views from the crops; the peer's come ready from its loader. Each row runs in its own process on
    all cores, and they take turns. A rate is the median of windows of a second or more, after a warm-up; the times of
    the stages come from steps apart. For the whole way from images to weights see simsiam bench train.

    Args:
        arch: Encoder.
        stem: Its first layers: imagenet, or cifar for images of about 32 pixels.
        size: Height and width of a view in pixels.
        batch_size: Images in a step, of two views each.
        rows: What to measure: our step (ours), also in a given precision (ours-fp32, ours-bf16), through
            torch.compile (ours-compiled), with batch norm and ReLU as one operation (ours-fused; on a CPU ours has
            that) or as one CUDA graph (ours-graphed); and what most trainings have, one pass a view, channels-first,
            uncompiled, in PyTorch's own layers, loss and SGD, in float32 (peer) or mixed precision (peer-amp).
        precision: Of ours; auto is bf16 on a GPU that has it, else fp16 there, and fp32 on a CPU.
        compile: How the row ours is compiled.
        seconds: How long each row is measured.
        rounds: Turns that the seconds are shared by.
        device: Where to run: auto, cpu or cuda.
        profile: Write a trace of three steps of the first row to this .json, for chrome://tracing or
            ui.perfetto.dev.
        json: Write environment and results to this file, too.
    """
    from simsiam.train.bench.report import print_step_results, write_results
    from simsiam.train.bench.step import bench_steps

    for file in (profile, json):
        if file:
            check_output(file, ".json")
    config = PretrainConfig(
        batch_size=batch_size,
        device=device,
        precision=precision,
        compile=compile,
        model=ModelConfig(arch, stem),
        data=DataConfig(size=size),
    )
    console = Console()
    results = bench_steps(config, rows, seconds=seconds, rounds=rounds, trace=profile, say=console.print)
    print_step_results(results, console)
    if json:
        write_results(results, json)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(bench_step, split_at_commas(arguments, get_args(StepRowName)), prog)
