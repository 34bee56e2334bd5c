"""Configuration → a pretrained encoder in a run folder: the main job."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.errors import RunError, UsageError
from simsiam.pipeline.loaders.open_loader import check_backend, choose_backend, open_loader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.config import PretrainConfig
from simsiam.train.cuda_graph import GraphedStep, check_cuda_graph
from simsiam.train.distributed import World, join_world
from simsiam.train.evaluation.knn_monitor import KnnMonitor
from simsiam.train.health import Unhealthy
from simsiam.train.interruption import Interrupted, StopSignals, stopping_at_once
from simsiam.train.loss import StepOutput
from simsiam.train.memory import explain_out_of_memory
from simsiam.train.precision import Arithmetic, choose_arithmetic, open_device
from simsiam.train.run.folder import describe_images, open_run_folder, stop_job
from simsiam.train.run.metrics import MetricsLog, NoLog, read_metrics, summarize
from simsiam.train.run.report import draw_views, report_run
from simsiam.train.run.trackers import check_trackers, open_trackers
from simsiam.train.run.training_run import SAVE, VIEWS, TrainingRun
from simsiam.train.schedule import initial_learning_rate
from simsiam.train.stage_clock import StageClock
from simsiam.train.step import train_step
from simsiam.train.terminal.broken_image_advice import broken_image_advice
from simsiam.train.terminal.console import TrainingConsole, show_progress
from simsiam.train.terminal.exit_codes import FAILED

_WITHOUT_BROKEN = "--data.on-broken replace --resume auto"


def pretrain(config: PretrainConfig, default_run_dir: Path, console: Console) -> dict[str, Any]:
    """Train to the end or to `max_steps`, going on from a checkpoint where asked, and return the summary.

    Processes that torchrun started train together, on equal shares of each batch; the first one writes everything, and
    the others return an empty summary.

    Raises UsageError for settings that can't work, before anything is written; Interrupted after SIGINT or SIGTERM.
    """
    with stopping_at_once(), join_world(config.device) as world:
        return _pretrain(config, default_run_dir, console, world)


def _pretrain(config: PretrainConfig, default_run_dir: Path, console: Console, world: World) -> dict[str, Any]:
    data = config.data
    if data.path is None:
        raise UsageError("No images were named; give --data.path with a folder of images or a .beton file.")
    if config.batch_size < 2 * world.size:
        raise UsageError(
            f"The global batch size {config.batch_size} is too small for {world.size} processes;"
            " each needs at least 2 images."
        )
    arithmetic = choose_arithmetic(open_device(config.device), config.precision)
    check_cuda_graph(config, arithmetic.device, world.size)
    _make_deterministic(config.deterministic)
    workers = worker_count(data.workers)
    if data.workers is None:
        workers = max(1, workers // world.local_size)
    with world.one_before_the_others(), show_progress(console, "Looking at the images", "files") as progress:
        source = open_source(data.path, progress=progress)
    plan = CropPlan(
        source,
        config.augmentation,
        data.size,
        config.batch_size,
        config.seed,
        VIEWS,
        world.rank,
        world.size,
        order=data.order,
        on_broken=data.on_broken,
    )
    check_backend(data.backend, plan)
    check_trackers(config)
    monitor = KnnMonitor(config, arithmetic, workers) if world.first else None
    with ExitStack() as held:
        folder = world.from_first(
            lambda: held.enter_context(open_run_folder(config, default_run_dir, describe_images(source), world.job))
        )
        run = held.enter_context(closing(TrainingRun(config, plan, folder, arithmetic, world)))
        _announce(console, run, source, arithmetic, monitor)
        with (
            explain_out_of_memory(run.model, config.batch_size, world.size),
            closing(_open_loader(config, plan, arithmetic.device, workers, console)) as loader,
            closing(_open_log(config, run, world)) as log,
            TrainingConsole(console, run.step, run.last_step) as live,
            StopSignals() as signals,
            _told_where_it_fails(run, world),
        ):
            if world.first and run.step == 0 and (sheet := draw_views(folder.path, source, config)):
                log.show_picture("views", sheet, run.step)
            _measure_knn_if_due(
                run, monitor, log, live, signals
            )  # also where a run was killed between saving and measuring
            run.model.train()
            run.window.start_clock()

            clock = StageClock(arithmetic.device)

            def take_step(crops: Crops) -> StepOutput:
                if config.cuda_graph:  # of which only the whole can be timed
                    return train_step(crops, run.objective, run.optimizer, arithmetic, data.mean, data.std)
                clock.start()
                return train_step(crops, run.objective, run.optimizer, arithmetic, data.mean, data.std, clock.mark)

            if config.cuda_graph:
                take_step = GraphedStep(take_step, run.optimizer)
            while not run.done:
                run.set_learning_rate()
                batches = loader.epoch(run.epoch, first_step=run.step_in_epoch)
                for crops, wait_seconds in _timed(batches, plan):
                    output = take_step(crops)
                    run.step += 1
                    run.window.add(output, wait_seconds)
                    run.replaced_here = loader.replaced
                    live.step(run.step)
                    if run.due_to_log():
                        record = run.record()  # waits for the device
                        if record:
                            record |= {f"{stage}_ms": round(each, 3) for stage, each in clock.milliseconds().items()}
                            log.write(record)
                            live.record(record, healthy_std=config.model.projection_dim**-0.5)
                    # A signal lets the running step finish; a kill costs at most the steps since the last save.
                    request = world.agree(signals.received or run.ask_to_save())
                    stop = request > SAVE
                    if run.due_to_save() or request:
                        run.save(wait=run.done or stop)  # waits for the device, and for the disk at the end
                    if stop:
                        if world.first:
                            report_run(folder.path)
                        raise Interrupted(request, folder.path)
                    if run.done:
                        break
                _measure_knn_if_due(run, monitor, log, live, signals)
            if (request := world.agree(signals.received or 0)) > SAVE:  # after the last step, which has been saved
                raise Interrupted(request, folder.path)
        if not world.first:
            return {}
        report_run(folder.path)
        return summarize(read_metrics(folder.path))


@contextmanager
def _told_where_it_fails(run: TrainingRun, world: World) -> Iterator[None]:
    """Save a run that its health stops, and write the report of any that an error ends after a step."""
    try:
        yield
    except RunError as error:
        stopped = isinstance(error, Unhealthy)
        if stopped:
            run.save(wait=True)
        if world.first:
            if stopped:
                stop_job(run.folder)
            if read_metrics(run.folder.path):
                report_run(run.folder.path)
        elif stopped:
            raise SystemExit(FAILED) from None  # all have found the same, and one tells of it
        raise


class _MeasurementStopped(Exception):
    """A signal came while the accuracy was measured."""


def _timed(batches: Iterator[Crops], plan: CropPlan) -> Iterator[tuple[Crops, float]]:
    """Yield each batch with the seconds that it was waited for."""
    while True:
        asked = time.perf_counter()
        with broken_image_advice(plan.source, plan.on_broken, _WITHOUT_BROKEN):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch, time.perf_counter() - asked


def _measure_knn_if_due(
    run: TrainingRun, monitor: KnnMonitor | None, log: MetricsLog | NoLog, live: TrainingConsole, signals: StopSignals
) -> None:
    """Measure where it is the time for it; a signal ends the measurement, since it may take minutes."""
    if not monitor or not monitor.wanted or not run.due_to_measure(run.config.knn.every_epochs):
        return
    if any(record["step"] == run.step and "knn" in record for record in read_metrics(run.folder.path)):
        return

    def go_on(_done: int, _total: int) -> None:
        if signals.received:
            raise _MeasurementStopped

    try:
        with run.window.pause():
            # This waits for the device.
            accuracy, sheet = monitor.measure(run.model.encoder, run.folder.path / "plots" / "neighbours.png", go_on)
    except _MeasurementStopped:
        return
    epochs = run.step / run.steps_per_epoch
    log.write({"step": run.step, "epoch": epochs, "knn": accuracy})
    if sheet:
        log.show_picture("neighbours", sheet, run.step)
    when = f"after epoch {epochs:.4g}" if run.step else "at random initialisation"
    live.say(f"kNN accuracy {when}: {100 * accuracy:.2f} %")


def _open_log(config: PretrainConfig, run: TrainingRun, world: World) -> MetricsLog | NoLog:
    if not world.first:
        return NoLog()
    return MetricsLog(run.folder.path, open_trackers(config, run.folder.path, run.step), after_step=run.step)


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
        console.print(f"Loader backend: {backend}, since {reason}.", highlight=False, soft_wrap=True)
    opening = show_progress(console, "Opening the loader", "images")
    with broken_image_advice(plan.source, plan.on_broken, _WITHOUT_BROKEN), opening as progress:
        options = {"hw_decoder_load": config.data.hw_decoder_load} if backend == "dali" else {}
        return open_loader(backend, plan, device, workers, progress, **options)


def _announce(
    console: Console, run: TrainingRun, source: Source, arithmetic: Arithmetic, monitor: KnnMonitor | None
) -> None:
    config, folder = run.config, run.folder
    rate = initial_learning_rate(config.optimizer.base_lr, config.batch_size)
    broken = len(source.broken)
    left_out = f", {broken:,} broken {'one' if broken == 1 else 'ones'} left out (simsiam verify lists them)"
    measured = [f"kNN monitor: {monitor.describe()}"] if monitor and monitor.wanted else []
    for line in (
        f"Images: {len(source):,} in {config.data.path}{left_out if broken else ''}",
        f"Model: {config.model.arch}, {config.model.stem} stem, {arithmetic.name} on {arithmetic.device}",
        *measured,
        f"Learning rate: {rate:g} = {config.optimizer.base_lr:g} × {config.batch_size} / 256",
        f"Run folder: {folder.path}" + (f", going on from {folder.resumed_from.name}" if folder.resumed_from else ""),
        f"Steps: {run.step:,} done of {run.last_step:,}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
