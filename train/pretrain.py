"""Configuration → a pretrained encoder in a run folder: the main job."""

import itertools
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from simsiam.model.resnet import resnet
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.loader import CropLoader, choose_backend, open_loader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.source import Source, open_source
from simsiam.train.checkpoint import save_checkpoint
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.console import TrainingConsole, show_progress
from simsiam.train.environment import worker_count
from simsiam.train.evaluation.monitor import KnnMonitor
from simsiam.train.interruption import Interrupted, StopSignals
from simsiam.train.metrics import MetricsLog, StepWindow, read_metrics, summarize
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.plots import plot_runs
from simsiam.train.precision import Arithmetic, choose_arithmetic, open_device
from simsiam.train.run_folder import open_run_folder, write_atomically
from simsiam.train.step import train_step

VIEWS = 2


def build_model(config: PretrainConfig) -> SimSiam:
    """Return the model of a configuration with fresh weights, on the CPU; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    model = config.model
    return SimSiam(
        resnet(model.arch, model.stem, VIEWS, model.zero_init_residual),
        projection_dim=model.projection_dim,
        prediction_hidden=model.prediction_hidden,
        projector_layers=model.projector_layers,
        views=VIEWS,
    )


def pretrain(config: PretrainConfig, default_run_dir: Path, console: Console) -> dict[str, Any]:
    """Train to the end or to `max_steps`, going on from a checkpoint where asked, and return the summary.

    Raises ValueError for settings that can't work, before anything is written; Interrupted after SIGINT or SIGTERM.
    """
    if config.data.path is None:
        raise ValueError("No images were named; give --data.path with a folder of images or a .beton file.")
    arithmetic = choose_arithmetic(open_device(config.device), config.precision)
    device = arithmetic.device
    _make_deterministic(config.deterministic)
    workers = worker_count(config.data.workers)
    with show_progress(console, "Looking at the images", "files") as progress:
        source = open_source(config.data.path, progress=progress)
    plan = CropPlan(source, config.augmentation, config.data.size, config.batch_size, config.seed, VIEWS)
    monitor = KnnMonitor(config, arithmetic, workers)
    run = open_run_folder(config, default_run_dir)

    model = build_model(config).to(device).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, config.optimizer, config.batch_size)
    step, last_step = 0, _last_step(config, len(plan))
    window = StepWindow(device)
    if run.state is not None:
        if run.state["images"] != len(source):
            raise ValueError(
                f"The run in {run.path} was started on {run.state['images']:,} images, and {config.data.path} has"
                f" {len(source):,}: give the same images to go on, or another --run-dir to start anew."
            )
        model.load_state_dict(run.state["model"])
        optimizer.load_state_dict(run.state["optimizer"])
        window.load_state_dict(run.state["window"])
        step = run.state["step"]
    network = torch.compile(model, mode=config.compile, fullgraph=True) if config.compile != "off" else model

    log = MetricsLog(run.path, config.log.tensorboard, after_step=step)
    loader = _open_loader(config, plan, device, workers, console)
    _announce(console, config, run.path, run.resumed_from, source, arithmetic, step, last_step)

    def save() -> None:
        state = {
            "format": 1,
            "config": to_tree(config),
            "images": len(source),
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "window": window.state_dict(),
        }
        with window.pause():
            if not all(value.isfinite().all() for value in state["model"].values()):
                raise RuntimeError(_diverged("A weight is not finite", step, run.checkpoints))
            save_checkpoint(state, run.checkpoints, step, config.checkpoint.keep)

    def measure_knn_if_due() -> None:
        due = step in (0, last_step) or (config.knn.every_epochs and step % (config.knn.every_epochs * len(plan)) == 0)
        if not (monitor.wanted and due) or any(
            record["step"] == step and "knn" in record for record in read_metrics(run.path)
        ):
            return
        with window.pause():
            accuracy = monitor.accuracy(model.encoder)
        log.write({"step": step, "epoch": step / len(plan), "knn": accuracy})
        when = f"after epoch {step / len(plan):g}" if step else "at random initialisation"
        live.say(f"kNN accuracy {when}: {100 * accuracy:.2f} %")

    # A signal lets the running step finish, then the run is saved; until the next save a kill costs at most the steps
    # since the last one. A run killed between saving and measuring measures when it is resumed.
    try:
        with TrainingConsole(console, step, last_step) as live, StopSignals() as signals:
            measure_knn_if_due()
            model.train()
            for epoch in itertools.count(step // len(plan)):
                if step >= last_step:
                    break
                rate = set_learning_rate(optimizer, config.optimizer, config.batch_size, epoch, config.epochs)
                crops_of_epoch = loader.epoch(epoch, first_step=step % len(plan))
                while step < last_step:
                    asked = time.perf_counter()
                    crops = next(crops_of_epoch, None)
                    if crops is None:
                        break
                    wait_seconds = time.perf_counter() - asked
                    output = train_step(crops, network, optimizer, arithmetic, config.data.mean, config.data.std)
                    step += 1
                    window.add(output, wait_seconds)
                    live.step(step)
                    if step % config.log.every_steps == 0 or step == last_step:
                        record = {
                            "step": step,
                            "epoch": step / len(plan),
                            **window.means(config.batch_size, VIEWS),  # waits for the device
                            "learning_rate": rate,
                            "predictor_learning_rate": optimizer.param_groups[1]["lr"],
                        }
                        if not math.isfinite(record["loss"]):
                            raise RuntimeError(_diverged(f"The loss is {record['loss']}", step, run.checkpoints))
                        if step % config.log.every_steps == 0:
                            window.restart()  # not where max_steps stops: a longer run would go on summing
                        log.write(record)
                        live.record(record, healthy_std=config.model.projection_dim**-0.5)
                    if signals.received:
                        save()
                        raise Interrupted(signals.received, run.path)
                    every = config.checkpoint.every_steps
                    if every and step % every == 0 and step % len(plan):
                        save()
                if step == last_step or (epoch + 1) % config.checkpoint.every_epochs == 0:
                    save()
                measure_knn_if_due()
    finally:
        loader.close()
        log.close()
    summary = summarize(read_metrics(run.path))
    write_atomically(run.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    plot_runs([run.path], run.path / "plots" / "curves.png")
    return summary


def _diverged(what: str, step: int, checkpoints: Path) -> str:
    return (
        f"{what} at step {step}; the last good state is in {checkpoints}."
        " Try a smaller --optimizer.base-lr, or --precision fp32."
    )


def _last_step(config: PretrainConfig, steps_per_epoch: int) -> int:
    whole_run = config.epochs * steps_per_epoch
    return whole_run if config.max_steps is None else min(whole_run, config.max_steps)


def _make_deterministic(deterministic: bool) -> None:
    if deterministic:
        # cuBLAS repeats itself only with a workspace of fixed size; it reads this when it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.benchmark = not deterministic


def _open_loader(
    config: PretrainConfig, plan: CropPlan, device: torch.device, workers: int, console: Console
) -> CropLoader:
    backend = config.data.backend
    if backend == "auto":
        backend, reason = choose_backend(plan, device)
        console.print(f"Loader backend: {backend}, since {reason}.", highlight=False)
    with show_progress(console, "Opening the loader", "images") as progress:
        return open_loader(backend, plan, device, workers, progress=progress)


def _announce(
    console: Console,
    config: PretrainConfig,
    run_dir: Path,
    resumed_from: Path | None,
    source: Source,
    arithmetic: Arithmetic,
    step: int,
    last_step: int,
) -> None:
    rate = config.optimizer.base_lr * config.batch_size / 256
    broken = f", {len(source.broken)} broken ones left out" if source.broken else ""
    for line in (
        f"Images: {len(source):,} in {config.data.path}{broken}",
        f"Model: {config.model.arch}, {config.model.stem} stem, {arithmetic.name} on {arithmetic.device}",
        f"Learning rate: {rate:g} = {config.optimizer.base_lr:g} × {config.batch_size} / 256",
        f"Run folder: {run_dir}" + (f", going on from {resumed_from.name}" if resumed_from else ""),
        f"Steps: {step:,} done of {last_step:,}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
