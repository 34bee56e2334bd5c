"""Counters of a run: its step and epoch, when to log and to save, and the line of metrics that it writes."""

import math
import time

import torch

from simsiam.pipeline.errors import RunError
from simsiam.pipeline.plan import CropPlan
from simsiam.train.config import PretrainConfig
from simsiam.train.distributed import World
from simsiam.train.health import START_ANEW
from simsiam.train.learner import VIEWS, Learner
from simsiam.train.loss import StepOutput
from simsiam.train.run.checkpoint_writer import CheckpointWriter, snapshot
from simsiam.train.run.folder import RunFolder
from simsiam.train.run.metrics import StepWindow
from simsiam.train.run.record import Record
from simsiam.train.run.resume import checkpoint_state, restore

SAVE = 1
"""The number to agree on when a checkpoint is due by the clock; signal numbers are larger."""


class TrainingRun:
    """Counts the steps that a learner takes, and says when to log and to save.

    It starts at step 0, or at the checkpoint that `folder` was opened with. In a `world` of several processes each has
    one, and the first one writes the files. Close it when it is no longer needed.
    """

    def __init__(
        self,
        config: PretrainConfig,
        plan: CropPlan,
        folder: RunFolder,
        learner: Learner,
        world: World | None = None,
    ) -> None:
        self.config, self.folder, self.learner, self._world = config, folder, learner, world or World()
        self.window = StepWindow(learner.device)
        self.step = 0
        self.replaced_before = 0
        """Broken images that all processes replaced before this start."""
        self._replaced_here = 0
        self.steps_per_epoch = len(plan)
        self.last_step = config.epochs * self.steps_per_epoch
        if config.max_steps is not None:
            self.last_step = min(self.last_step, config.max_steps)
        self._writer = CheckpointWriter(
            folder.checkpoints, config.checkpoint.keep, config.checkpoint.keep_every_epochs * self.steps_per_epoch
        )
        self._saved_at = time.monotonic()
        if folder.state is not None:
            restore(self, learner, folder.state)

    @property
    def epoch(self) -> int:
        """The epoch that the next step belongs to, from 0."""
        return self.step // self.steps_per_epoch

    @property
    def step_in_epoch(self) -> int:
        """The index of the next step in its epoch, from 0; 0 between two epochs."""
        return self.step % self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether the last step has been taken."""
        return self.step >= self.last_step

    def count(self, output: StepOutput, wait_seconds: float, replaced: int) -> None:
        """Count one step that was taken, the time that it waited for its crops, and the images replaced here so far."""
        self.step += 1
        self.window.add(output, wait_seconds)
        self._replaced_here = replaced

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
        """Whether the run is at its start, at its end, or at a multiple of `every_epochs` epochs (0: never)."""
        between_epochs = self.step_in_epoch == 0 and every_epochs > 0 and self.epoch % every_epochs == 0
        return self.step == 0 or self.done or between_epochs

    def record(self) -> Record | None:
        """Return a line for metrics.jsonl: means over all processes, rates of all by this process's clock.

        None if every step since the last line was skipped. Waits for the device.

        Raises RunError when the loss is not finite although its step was not skipped; Unhealthy as configured.
        """
        self._world.average_(self.window.sums)
        learner, health = self.learner, self.learner.health
        means = self.window.means(self.config.batch_size, VIEWS)
        skipped_steps = health.check_steps(self.step)
        if not math.isfinite(means.loss):
            if not health.last_step_was_skipped():
                raise RunError(self._diverged(f"The loss is {means.loss}"))
            return None  # every step since the last line was skipped; the next line includes them
        rates = [group["lr"] for group in learner.optimizer.param_groups]
        record = Record(
            step=self.step,
            epoch=self.step / self.steps_per_epoch,
            **means._asdict(),
            learning_rate=rates[0],
            predictor_learning_rate=rates[1],
            gpu_memory_gib=_gpu_memory_gib(learner.device),
            loss_scale=learner.loss_scale,
            skipped_steps=skipped_steps,
            collapsed_steps=health.check_output(self.step, means.loss, means.output_std),
            replaced_images=self._count_replaced() or None,
            **{f"{stage}_ms": round(each, 3) for stage, each in learner.clock.milliseconds().items()},
        )
        if self.step % self.config.log.every_steps == 0:
            self.window.restart()  # not at max_steps, where a longer run would continue the sums
        return record

    def save(self, wait: bool = False) -> None:
        """Copy the state, and let the first process write it in the background. All processes must call it together.

        Waits for the device and for the last save; with `wait`, until the checkpoint is on disk.

        Raises RunError when a weight is not finite, when the health checks end the run, and with `wait` when the
        checkpoint can't be written.
        """
        with self.window.pause():
            self.learner.health.check_steps(self.step)
            if not self.learner.has_finite_weights():
                raise RunError(self._diverged("A weight is not finite"))
        self._world.average_(self.window.sums)  # so that all processes can resume from the first one's
        replaced = self._count_replaced()
        self._saved_at = time.monotonic()
        if not self._world.first:
            return
        state = checkpoint_state(self, self.learner, replaced)
        with self.window.pause():
            self._writer.start(snapshot(state), self.step)
            if wait:
                self._writer.finish()
            self._saved_at = time.monotonic()

    def _count_replaced(self) -> int:
        """Return how many broken images all processes have replaced since the start of the run."""
        here = self.window.sums.new_tensor(self._replaced_here, dtype=torch.float64)
        return self.replaced_before + round(self._world.average_(here).item() * self._world.size)

    def close(self) -> None:
        """Wait for the checkpoint that is being written."""
        self._writer.close()

    def _diverged(self, what: str) -> str:
        return (
            f"{what} at step {self.step}; earlier checkpoints, if any, are in {self.folder.checkpoints}. {START_ANEW}"
        )


def _gpu_memory_gib(device: torch.device) -> float | None:
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if device.type == "cuda" else None
