"""Configuration, images and run folder → a run: all that changes from step to step, and how it is saved and resumed."""

import math
import time
from collections.abc import Callable
from typing import Literal

import torch

from simsiam.model.activation_checkpointing import recompute_blocks
from simsiam.model.batch_norm import share_statistics
from simsiam.model.fused_batch_norm import fuse_batch_norm
from simsiam.model.resnet import resnet
from simsiam.model.simsiam import SimSiam
from simsiam.model.small_map_conv import speed_up_small_maps
from simsiam.pipeline.errors import RunError
from simsiam.pipeline.plan import CropPlan
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.distributed import World
from simsiam.train.health import BEGIN_ANEW, Health
from simsiam.train.loss import Objective, StepOutput
from simsiam.train.memory import keep_freed_memory
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.precision import Arithmetic
from simsiam.train.run.checkpoint_writer import CheckpointWriter, snapshot
from simsiam.train.run.folder import RunFolder
from simsiam.train.run.metrics import Record, StepWindow

VIEWS = 2
SAVE = 1
"""What the processes agree on when a checkpoint is due by the clock; the numbers of stop signals are larger."""


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


def place_model(
    model: SimSiam,
    device: torch.device,
    eager: bool = True,
    fused_batch_norm: Literal["auto", "on", "off"] = "auto",
) -> SimSiam:
    """Move a model to a device, in the layout and with the operations that are quickest there; returns it.

    Without `eager` it is to be compiled, and keeps the plain operations, which a compiler can join by itself.
    """
    model.to(device).to(memory_format=torch.channels_last)
    eager_on_cpu = device.type == "cpu" and eager
    if eager_on_cpu:
        keep_freed_memory()
        speed_up_small_maps(model.encoder)
    if fused_batch_norm == "on" or (fused_batch_norm == "auto" and eager_on_cpu):
        fuse_batch_norm(model.encoder)
    return model


class TrainingRun:
    """Model, optimizer, sums of the metrics and the step, with the rules of when to log and to save.

    It begins at step 0, or at the checkpoint that `folder` was opened with. In a `world` of several processes each
    holds all of this, and the first one writes the files. It is to be closed when it is no longer needed.
    """

    def __init__(
        self,
        config: PretrainConfig,
        plan: CropPlan,
        folder: RunFolder,
        arithmetic: Arithmetic,
        world: World | None = None,
    ) -> None:
        self.config, self.folder, self._world = config, folder, world or World()
        device, self._scaler = arithmetic.device, arithmetic.scaler
        eager = config.compile == "off"
        self.model = place_model(build_model(config), device, eager, config.fused_batch_norm)
        if config.recompute:
            recompute_blocks(self.model.encoder)
        share_statistics(self.model, self._world.size)
        objective: Callable = Objective(self.model)
        if config.compile != "off":
            objective = torch.compile(objective, mode=config.compile, fullgraph=True)
        self.objective: Callable[[torch.Tensor], StepOutput] = self._world.replicate(objective, device)
        """What the step calls, in all processes alike."""
        self.optimizer = make_optimizer(self.model, config.optimizer, config.batch_size)
        self.health = Health(
            config.health, self.model, self.optimizer, config.model.projection_dim**-0.5, speaks=self._world.first
        )
        self.window = StepWindow(device)
        self.step = 0
        self.replaced_here = 0
        """Broken images that another one stood in for, in this process since it began; to be kept up to date."""
        self._replaced_before = 0
        self.steps_per_epoch = len(plan)
        self.last_step = config.epochs * self.steps_per_epoch
        if config.max_steps is not None:
            self.last_step = min(self.last_step, config.max_steps)
        self._writer = CheckpointWriter(
            folder.checkpoints, config.checkpoint.keep, config.checkpoint.keep_every_epochs * self.steps_per_epoch
        )
        self._saved_at = time.monotonic()
        if folder.state is not None:
            self._restore(folder.state)

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """The next step's place in its epoch, from 0; 0 between two epochs."""
        return self.step % self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        return self.step >= self.last_step

    def set_learning_rate(self) -> None:
        """Set the learning rates of the epoch; they change once an epoch."""
        config = self.config
        set_learning_rate(self.optimizer, config.optimizer, config.batch_size, self.epoch, config.epochs)

    def due_to_log(self) -> bool:
        """Whether a line of metrics.jsonl is to be written after the step just taken."""
        return self.step % self.config.log.every_steps == 0 or self.done

    def due_to_save(self) -> bool:
        """Whether a checkpoint is to be written after the step just taken."""
        every = self.config.checkpoint
        if self.done:
            return True
        if self.step_in_epoch == 0:
            return self.epoch % every.every_epochs == 0
        return every.every_steps > 0 and self.step % every.every_steps == 0

    def ask_to_save(self) -> int:
        """Return SAVE, once, when the last checkpoint is `every_minutes` old, by the first process's clock; else 0."""
        seconds = 60 * self.config.checkpoint.every_minutes
        if not seconds or not self._world.first or time.monotonic() - self._saved_at < seconds:
            return 0
        self._saved_at = time.monotonic()
        return SAVE

    def due_to_measure(self, every_epochs: int) -> bool:
        """Whether it is the begin or the end of the run, or of a multiple of `every_epochs` (0: never) epochs."""
        between_epochs = self.step_in_epoch == 0 and every_epochs > 0 and self.epoch % every_epochs == 0
        return self.step == 0 or self.done or between_epochs

    def record(self) -> Record | None:
        """Return a line for metrics.jsonl: loss and spread over all processes; rates of all, by this one's clock.

        None where every step since the last line was skipped. This waits for the device.

        Raises RunError when the loss is no number any more, though a step was taken with it, and `Unhealthy`.
        """
        self._world.average_(self.window.sums)
        record = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            **self.window.means(self.config.batch_size, VIEWS),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "predictor_learning_rate": self.optimizer.param_groups[1]["lr"],
        }
        if self.window.sums.is_cuda:
            record["gpu_memory_gib"] = round(torch.cuda.max_memory_allocated(self.window.sums.device) / 2**30, 2)
        if self._scaler.is_enabled():
            record["loss_scale"] = self._scaler.get_scale()
        if not math.isfinite(record["loss"]):
            self.health.check_steps(self.step)
            if not self.health.last_step_was_skipped():
                raise RunError(self._diverged(f"The loss is {record['loss']}"))
            return None  # every step since the last line was skipped; the next line is about these, too
        record |= self.health.look(record)
        if replaced := self._count_replaced():
            record["replaced_images"] = replaced
        if self.step % self.config.log.every_steps == 0:
            self.window.restart()  # not where max_steps stops: a longer run would go on summing
        return record

    def save(self, wait: bool = False) -> None:
        """Copy the state and have the first process write it in the background. All processes must call it together.

        This waits for the device, and for the last save.

        With `wait` it is on the disk when this returns. Raises RunError when a weight is no number any more, when the
        run's health forbids to go on, and with `wait` when the checkpoint can't be written.
        """
        with self.window.pause():
            self.health.check_steps(self.step)
            weights = self.model.state_dict()
            if not all(value.isfinite().all() for value in weights.values()):
                raise RunError(self._diverged("A weight is not finite"))
        self._world.average_(self.window.sums)  # so that all of them can go on from the first one's
        replaced = self._count_replaced()
        self._saved_at = time.monotonic()
        if not self._world.first:
            return
        state = {
            "config": to_tree(self.config),
            "images": self.folder.images,
            "step": self.step,
            "model": weights,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "window": self.window.state_dict(),
            "health": self.health.state_dict(),
            "replaced_images": replaced,
        }
        with self.window.pause():
            self._writer.begin(snapshot(state), self.step)
            if wait:
                self._writer.finish()
            self._saved_at = time.monotonic()

    def _count_replaced(self) -> int:
        """Return how many broken images have been replaced since the run began, in all processes."""
        here = self.window.sums.new_tensor(self.replaced_here, dtype=torch.float64)
        return self._replaced_before + round(self._world.average_(here).item() * self._world.size)

    def close(self) -> None:
        """Wait for the checkpoint that is being written."""
        self._writer.close()

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where the precision knows none: `auto` on another device
            self._scaler.load_state_dict(state["scaler"])
        self.window.load_state_dict(state["window"])
        self.health.load_state_dict(state["health"])
        self.step = state["step"]
        self._replaced_before = state.get("replaced_images", 0)  # which the first versions didn't keep

    def _diverged(self, what: str) -> str:
        return (
            f"{what} at step {self.step}; the checkpoints that were written before, if any, are in"
            f" {self.folder.checkpoints}. {BEGIN_ANEW}"
        )
