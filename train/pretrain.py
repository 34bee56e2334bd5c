"""Pretraining: the main job, from a configuration to a trained encoder in a run folder."""

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console

from simsiam.pipeline.crops import CropLoader, Crops
from simsiam.pipeline.errors import RunError, UsageError
from simsiam.pipeline.loaders.open_loader import check_backend, choose_backend, open_loader
from simsiam.pipeline.paths import expand_home
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.worker_count import available_cores, worker_count
from simsiam.train.config import PretrainConfig
from simsiam.train.cuda_graph import check_cuda_graph
from simsiam.train.distributed import World, join_world
from simsiam.train.environment import describe_load
from simsiam.train.evaluation.knn_monitor import KnnMonitor
from simsiam.train.health import Unhealthy
from simsiam.train.initial_weights import InitialWeights, read_initial_weights
from simsiam.train.interruption import Interrupted, StopSignals, stopping_at_once
from simsiam.train.learner import VIEWS, Learner, build_model
from simsiam.train.machine import find_compiler, find_disk, find_open_files, raise_open_files, require, warn_of
from simsiam.train.memory import explain_out_of_memory
from simsiam.train.precision import Arithmetic, choose_arithmetic, open_device
from simsiam.train.run.checkpoint import list_checkpoints
from simsiam.train.run.folder import describe_images, open_run_folder, stop_job
from simsiam.train.run.metrics import MetricsLog, NoLog, read_metrics, summarize
from simsiam.train.run.record import Record
from simsiam.train.run.report import draw_views, report_run
from simsiam.train.run.trackers import check_trackers, open_trackers
from simsiam.train.run.training_run import SAVE, TrainingRun
from simsiam.train.schedule import initial_learning_rate
from simsiam.train.stall import StallWatch, StoppedWhileWaiting
from simsiam.train.terminal.console import TrainingConsole, show_progress
from simsiam.train.terminal.exit_codes import FAILED
from simsiam.train.terminal.image_lines import image_lines


def pretrain(config: PretrainConfig, default_run_dir: Path, console: Console) -> dict[str, Any]:
    """Train to the end or to `max_steps`, from a checkpoint where asked, and return the summary.

    Processes that torchrun started train together, on equal shares of each batch; the first one writes everything, and
    the others return an empty summary.

    Raises UsageError for settings that can't work, before anything is written; Interrupted after SIGINT or SIGTERM.
    """
    with stopping_at_once(), join_world(config.device) as world, ExitStack() as held:
        arithmetic, workers = _settle(config, world)
        with world.one_before_the_others(), show_progress(console, "Looking at the images", "files") as progress:
            source = open_source(_images(config), progress=progress)
        plan = _plan(config, source, world)
        check_backend(config.data.backend, plan)
        check_trackers(config)
        initial = _initial_weights(config, default_run_dir)
        monitor = KnnMonitor(config, arithmetic, workers) if world.first else None
        learner = Learner(config, arithmetic, world)
        _check_disk(config, default_run_dir, learner)
        folder = world.from_first(
            lambda: held.enter_context(open_run_folder(config, default_run_dir, describe_images(source), world.job))
        )
        if initial and folder.state is None:
            learner.load_weights(initial.tensors)
        run = held.enter_context(closing(TrainingRun(config, plan, folder, learner, world)))
        if world.first:
            _announce(console, run, source, arithmetic, monitor, initial)
        with (
            explain_out_of_memory(learner.model, config.batch_size, world.size),
            _open_loader(config, plan, arithmetic.device, workers, world, console) as loader,
            closing(_open_log(config, run, world)) as log,
            TrainingConsole(console, run.step, run.last_step, config.model.projection_dim**-0.5) as live,
            StopSignals() as signals,
            closing(StallWatch(signals, live.say)) as watch,
            _told_where_it_fails(run, world),
        ):
            if world.first and run.step == 0 and (sheet := draw_views(folder.path, source, config)):
                log.show_picture("views", sheet, run.step)
            try:
                _train(run, learner, loader, world, log, live, signals, watch, monitor)
            except StoppedWhileWaiting:
                _stop_without_a_step(run, world, signals)
        if not world.first:
            return {}
        report_run(folder.path)
        return summarize(read_metrics(folder.path))


def _train(
    run: TrainingRun,
    learner: Learner,
    loader: CropLoader,
    world: World,
    log: MetricsLog | NoLog,
    live: TrainingConsole,
    signals: StopSignals,
    watch: StallWatch,
    monitor: KnnMonitor | None,
) -> None:
    """Take the steps of the run that are left. Every wait, for device, loader, disk or processes, has a comment."""
    # Waits for the device; also where a run was killed between saving and measuring.
    _measure_knn_if_due(run, monitor, log, live, signals)
    run.window.start_clock()
    while not run.done:
        learner.set_learning_rate(run.epoch)
        batches = loader.epoch(run.epoch, first_step=run.step_in_epoch)  # a resumed run starts inside an epoch
        for crops, wait_seconds in _timed(batches, watch):  # waits for the loader
            output = learner.step(crops)
            run.count(output, wait_seconds, loader.replaced)
            live.step(run.step)
            if run.due_to_log() and (record := run.record()):  # waits for the device
                log.write(record)
                live.record(record)
            # A signal lets the running step finish; a kill costs at most the steps since the last save. Processes learn
            # each other's answer to the step before, so that none waits for it.
            request = world.agree(signals.received or run.ask_to_save())
            if run.due_to_save() or request:
                run.save(wait=run.done or request > SAVE)  # waits for the device, and for the disk at the end
            if request > SAVE:
                _stop(run, world, request)
            if run.done:
                break
        _measure_knn_if_due(run, monitor, log, live, signals)  # waits for the device
    if (request := world.agree(signals.received or 0)) > SAVE:  # after the last step, which has been saved
        _stop(run, world, request)


def _stop_without_a_step(run: TrainingRun, world: World, signals: StopSignals) -> NoReturn:
    """Obey a signal while no batch comes, so that the loop can't. Several processes can't agree on a step then."""
    assert signals.received is not None
    if world.size > 1:
        raise RunError(f"{signals.name} came while no images did; resume from the newest checkpoint.")
    run.save(wait=True)
    _stop(run, world, signals.received)


def _stop(run: TrainingRun, world: World, request: int) -> NoReturn:
    """End a run that has been saved, since the signal `request` asks for it."""
    if world.first:
        report_run(run.folder.path)
    raise Interrupted(request, run.folder.path)


def _settle(config: PretrainConfig, world: World) -> tuple[Arithmetic, int]:
    """Return arithmetic and number of loader workers; raises UsageError for settings that can't work here."""
    _images(config)
    if config.batch_size < 2 * world.size:
        raise UsageError(
            f"The global batch size {config.batch_size} is too small for {world.size} processes;"
            " each needs at least 2 images."
        )
    arithmetic = choose_arithmetic(open_device(config.device), config.precision)
    if config.compile != "off" or arithmetic.device.type == "cuda":
        require(find_compiler(arithmetic.device.type))
    check_cuda_graph(config, arithmetic.device, world.size)
    _make_deterministic(config.deterministic)
    workers = worker_count(config.data.workers)
    if config.data.workers is None:
        workers = max(1, workers // world.local_size)
    warn_of(find_open_files(workers))
    raise_open_files(workers)
    return arithmetic, workers


def _images(config: PretrainConfig) -> Path:
    if config.data.path is None:
        raise UsageError("No images were named; give a folder of images or a .beton file.", argument="data.path")
    return config.data.path


def _initial_weights(config: PretrainConfig, default_run_dir: Path) -> InitialWeights | None:
    """Read the weights that a new run starts from; a run with checkpoints no longer needs them."""
    run_dir = expand_home(config.run_dir or default_run_dir)
    if config.init_from is None or list_checkpoints(run_dir / "checkpoints"):
        return None
    return read_initial_weights(config.init_from, build_model(config))


def _check_disk(config: PretrainConfig, default_run_dir: Path, learner: Learner) -> None:
    """Refuse a disk without room for the checkpoint and the one that replaces it; warn of one that will be full."""
    weights = sum(weight.numel() * weight.element_size() for weight in learner.model.parameters())
    checkpoint_bytes = 2 * weights  # each weight has its momentum
    run_dir = expand_home(config.run_dir or default_run_dir)
    there = len(list_checkpoints(run_dir / "checkpoints"))
    require(find_disk(run_dir, checkpoint_bytes, keep=max(0, 1 - there)))
    warn_of(find_disk(run_dir, checkpoint_bytes, keep=max(0, config.checkpoint.keep - there)))


def _plan(config: PretrainConfig, source: Source, world: World) -> CropPlan:
    data = config.data
    return CropPlan(
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


def _timed(batches: Iterator[Crops], watch: StallWatch) -> Iterator[tuple[Crops, float]]:
    """Yield each batch with the seconds that it was waited for."""
    while True:
        asked = time.perf_counter()
        with watch:
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

    def stop_at_a_signal(_done: int, _total: int) -> None:
        if signals.received:
            raise _MeasurementStopped

    try:
        with run.window.pause():
            # This waits for the device.
            accuracy, sheet = monitor.measure(
                run.learner.model.encoder, run.folder.path / "plots" / "neighbours.png", stop_at_a_signal
            )
    except _MeasurementStopped:
        return
    epochs = run.step / run.steps_per_epoch
    log.write(Record(step=run.step, epoch=epochs, knn=accuracy))
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
    config: PretrainConfig, plan: CropPlan, device: torch.device, workers: int, world: World, console: Console
) -> CropLoader:
    backend = config.data.backend
    if backend == "auto":
        backend, reason = choose_backend(plan, device)
        console.print(f"Loader backend: {backend}, since {reason}.", highlight=False, soft_wrap=True)
    with show_progress(console, "Opening the loader", "images") as progress:
        options = {"dali": {"hw_decoder_load": config.data.hw_decoder_load}, "torch": {"processes": world.local_size}}
        return open_loader(backend, plan, device, workers, progress, **options.get(backend, {}))


def _announce(
    console: Console,
    run: TrainingRun,
    source: Source,
    arithmetic: Arithmetic,
    monitor: KnnMonitor | None,
    initial: InitialWeights | None,
) -> None:
    config, folder = run.config, run.folder
    rate = initial_learning_rate(config.optimizer.base_lr, config.batch_size)
    measured = [f"kNN monitor: {monitor.describe()}"] if monitor and monitor.wanted else []
    started_from = [f"Initial weights: {initial.told}"] if initial and folder.state is None else []
    for line in (
        *image_lines(source, _images(config)),
        f"Model: {config.model.arch}, {config.model.stem} stem, {arithmetic.name} on {arithmetic.device}",
        *filter(None, [describe_load(available_cores())]),
        *started_from,
        *measured,
        f"Learning rate: {rate:g} = {config.optimizer.base_lr:g} × {config.batch_size} / 256",
        f"Run folder: {folder.path}" + (f", resumed from {folder.resumed_from.name}" if folder.resumed_from else ""),
        f"Steps: {run.step:,} done of {run.last_step:,}",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
