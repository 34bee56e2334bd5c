"""`simsiam bench train`: images and a model → how fast the whole training is, beside its ceiling and what most have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console

from simsiam.pipeline.crops import Backend
from simsiam.train.bench.rows import TrainRowName
from simsiam.train.config import DataConfig, DeviceName, ModelConfig, PrecisionName, PretrainConfig
from simsiam.train.terminal.arguments import call, split_at_commas
from simsiam.train.terminal.output_file import check_output


def bench_train(
    source: Path,
    arch: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = "resnet50",
    stem: Literal["imagenet", "cifar"] = "imagenet",
    size: int = 224,
    batch_size: int = 64,
    rows: tuple[TrainRowName, ...] = ("ours", "peer"),
    images: Path | None = None,
    backend: Backend = "auto",
    workers: int | None = None,
    precision: PrecisionName = "auto",
    compile: Literal["off", "default", "max-autotune"] = "off",
    seconds: float = 30.0,
    rounds: int = 3,
    device: DeviceName = "auto",
    profile: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure training from images to weights, beside the step alone (synthetic) and the training that most have.

    Each row runs in its own process, loader and step on the same cores, and they take turns. A rate is the median of
    windows of a second or more, after a warm-up; the wait is the share of it in which the step had no batch.

    Args:
        source: Folder of images, or .beton file.
        arch: Encoder.
        stem: Its first layers: imagenet, or cifar for images of about 32 pixels.
        size: Height and width of a view in pixels.
        batch_size: Images in a step, of two views each.
        rows: What to measure: our loader and step (ours), a DataLoader over torchvision's ImageFolder with the
            reference transforms and a step in float32 (peer) or mixed precision (peer-amp) as in simsiam bench
            step. Our step on crops that lie ready (synthetic) is always measured, too.
        images: Folder of images, in class folders, for the peer; by default the source.
        backend: Our loader.
        workers: Loader processes or threads of each row; by default one for each core this program may use.
        precision: Of ours; auto is bf16 on a GPU that has it, else fp16 there, and fp32 on a CPU.
        compile: How our step is compiled.
        seconds: How long each row is measured.
        rounds: Turns that the seconds are shared by.
        device: Where to run: auto, cpu or cuda.
        profile: Write a trace of three steps of the first row to this .json, for chrome://tracing or
            ui.perfetto.dev.
        json: Write environment and results to this file, too.
    """
    from simsiam.train.bench.report import print_step_results, write_results
    from simsiam.train.bench.train import bench_train

    for file in (profile, json):
        if file:
            check_output(file, ".json")
    config = PretrainConfig(
        batch_size=batch_size,
        device=device,
        precision=precision,
        compile=compile,
        model=ModelConfig(arch, stem),
        data=DataConfig(path=source, size=size, backend=backend, workers=workers),
    )
    console = Console()
    results = bench_train(config, rows, seconds=seconds, rounds=rounds, images=images, trace=profile, say=console.print)
    print_step_results(results, console)
    if json:
        write_results(results, json)


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(bench_train, split_at_commas(arguments, get_args(TrainRowName)), prog)
