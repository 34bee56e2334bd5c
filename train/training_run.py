"""Configuration, images and run folder → a run: all that changes from step to step, and how it is saved and resumed."""

import math
from collections.abc import Callable

import torch

from simsiam.model.batch_norm import share_statistics
from simsiam.model.resnet import resnet
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.errors import RunError, UsageError
from simsiam.pipeline.fingerprint import fingerprint
from simsiam.pipeline.plan import CropPlan
from simsiam.train.checkpoint import save_checkpoint
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.distributed import World
from simsiam.train.metrics import Record, StepWindow
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.run_folder import RunFolder

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


class TrainingRun:
    """Model, optimizer, sums of the metrics and the step, with the rules of when to log and to save.

    It begins at step 0, or at the checkpoint that `folder` was opened with. Raises UsageError when that was trained on
    other images. In a `world` of several processes each holds all of this, and the first one writes the files.
    """

    def __init__(
        self,
        config: PretrainConfig,
        plan: CropPlan,
        folder: RunFolder,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        self.config, self.folder, self._world = config, folder, world or World()
        self._images = {"count": len(plan.source), "fingerprint": fingerprint(plan.source)}
        self.model = build_model(config).to(device).to(memory_format=torch.channels_last)
        self.network: Callable = self.model
        """The model as the step calls it."""
        if config.compile != "off":
            self.network = torch.compile(self.model, mode=config.compile, fullgraph=True)
        share_statistics(self.model, self._world.size)
        self.network = self._world.replicate(self.network, device)
        self.optimizer = make_optimizer(self.model, config.optimizer, config.batch_size)
        self.window = StepWindow(device)
        self.step = 0
        self.steps_per_epoch = len(plan)
        self.last_step = config.epochs * self.steps_per_epoch
        if config.max_steps is not None:
            self.last_step = min(self.last_step, config.max_steps)
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

    def due_to_measure(self, every_epochs: int) -> bool:
        """Whether it is the begin or the end of the run, or of a multiple of `every_epochs` (0: never) epochs."""
        between_epochs = self.step_in_epoch == 0 and every_epochs > 0 and self.epoch % every_epochs == 0
        return self.step == 0 or self.done or between_epochs

    def record(self) -> Record:
        """Return a line for metrics.jsonl: loss and spread over all processes, rates of this one.

        This waits for the device.

        Raises RunError when the loss is no number any more.
        """
        self._world.average_(self.window.sums)
        record = {
            "step": self.step,
            "epoch": self.step / self.steps_per_epoch,
            **self.window.means(self.config.batch_size, VIEWS),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "predictor_learning_rate": self.optimizer.param_groups[1]["lr"],
        }
        if not math.isfinite(record["loss"]):
            raise RunError(self._diverged(f"The loss is {record['loss']}"))
        if self.step % self.config.log.every_steps == 0:
            self.window.restart()  # not where max_steps stops: a longer run would go on summing
        return record

    def save(self) -> None:
        """Write a checkpoint. This waits for the device and, in the first process, for the disk.

        Raises RunError when a weight is no number any more.
        """
        self._world.average_(self.window.sums)  # so that all of them can go on from the first one's
        state = {
            "format": 1,
            "config": to_tree(self.config),
            "images": self._images,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "window": self.window.state_dict(),
        }
        with self.window.pause():
            if not all(value.isfinite().all() for value in state["model"].values()):
                raise RunError(self._diverged("A weight is not finite"))
            if self._world.first:
                save_checkpoint(state, self.folder.checkpoints, self.step, self.config.checkpoint.keep)

    def _restore(self, state: dict) -> None:
        was, now, path = state["images"], self._images, self.config.data.path
        if was != now:
            difference = f"{path} has {now['count']:,}"
            if was["count"] == now["count"]:
                difference = f"{path} has as many, but with other names, classes or sizes"
            raise UsageError(
                f"The run in {self.folder.path} was started on {was['count']:,} images, and {difference}:"
                " give the same images to go on, or another --run-dir to start anew."
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.window.load_state_dict(state["window"])
        self.step = state["step"]

    def _diverged(self, what: str) -> str:
        return (
            f"{what} at step {self.step}; the last good state is in {self.folder.checkpoints}."
            " Try a smaller --optimizer.base-lr, or --precision fp32."
        )
