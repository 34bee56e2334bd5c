"""The learner: model, loss, optimizer and guard of a run, and the one object that takes its steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from simsiam.model.prepare import prepare
from simsiam.model.resnet import resnet
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.crops import Crops
from simsiam.train.config import PretrainConfig
from simsiam.train.cuda_graph import GraphedStep
from simsiam.train.distributed import World
from simsiam.train.health import Health
from simsiam.train.loss import Objective, StepOutput
from simsiam.train.memory import keep_freed_memory
from simsiam.train.nonfinite_guard import NonfiniteGuard
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.precision import Arithmetic
from simsiam.train.stage_clock import StageClock
from simsiam.train.step import Mark, train_step

VIEWS = 2
"""Views of each image (arXiv 2011.10566, section 3)."""


def build_model(config: PretrainConfig) -> SimSiam:
    """Return the model of a configuration with fresh weights, on the CPU; the same seed gives the same weights."""
    torch.manual_seed(config.seed)
    model = config.model
    return SimSiam(
        resnet(model.arch, model.stem, model.zero_init_residual),
        projection_dim=model.projection_dim,
        prediction_hidden=model.prediction_hidden,
        projector_layers=model.projector_layers,
        views=VIEWS,
    )


class Learner:
    """Model, optimizer and guard on the device, prepared for speed, in training mode.

    In a `world` of several processes each has one, and they take their steps together.
    """

    def __init__(self, config: PretrainConfig, arithmetic: Arithmetic, world: World | None = None) -> None:
        self._config, self._arithmetic, self._world = config, arithmetic, world or World()
        device, compiled = arithmetic.device, config.compile != "off"
        if device.type == "cpu" and not compiled:
            keep_freed_memory()
        self.model = prepare(
            build_model(config),
            device,
            compiled=compiled,
            fused_batch_norm=config.fused_batch_norm,
            recompute=config.recompute,
            world_size=self._world.size,
        ).train()
        objective: Callable = Objective(self.model)
        if compiled:
            objective = torch.compile(objective, mode=config.compile, fullgraph=True)
        self._objective: Callable[[Tensor], StepOutput] = self._world.replicate(objective, device)
        self.optimizer = make_optimizer(self.model, config.optimizer, config.batch_size)
        self._guard = NonfiniteGuard(self.model, self.optimizer)
        self.health = Health(config.health, self._guard, config.model.projection_dim**-0.5, speaks=self._world.first)
        self.clock = StageClock(device)
        """Times the stages of the last step; empty with a CUDA graph, whose stages can't be timed."""
        self._graph = GraphedStep(self._take_step, self.optimizer) if config.cuda_graph else None

    @property
    def device(self) -> torch.device:
        """The device of model and optimizer."""
        return self._arithmetic.device

    @property
    def loss_scale(self) -> float | None:
        """The factor that losses are scaled by; None except in fp16. Waits for the device."""
        scaler = self._arithmetic.scaler
        return scaler.get_scale() if scaler.is_enabled() else None

    def step(self, crops: Crops, mark: Mark | None = None) -> StepOutput:
        """Take one step: augment, forward, backward, update. Doesn't wait for the device.

        `mark` is called after each stage, by default to time it with `clock`; with a CUDA graph once, with `step`.
        """
        if self._graph is not None:
            output = self._graph(crops)
            if mark is not None:
                mark("step")
            return output
        if mark is None:
            self.clock.start()
            mark = self.clock.mark
        return self._take_step(crops, mark)

    def _take_step(self, crops: Crops, mark: Mark = lambda stage: None) -> StepOutput:
        data = self._config.data
        return train_step(
            crops, self._objective, self.optimizer, self._guard, self._arithmetic, data.mean, data.std, mark
        )

    def set_learning_rate(self, epoch: int) -> None:
        """Set the learning rates of an epoch, counted from 0; they change once an epoch."""
        config = self._config
        set_learning_rate(self.optimizer, config.optimizer, config.batch_size, epoch, config.epochs)

    def has_finite_weights(self) -> bool:
        """Tell whether every weight and running statistic is finite. Waits for the device."""
        return all(bool(value.isfinite().all()) for value in self.model.state_dict().values())

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Replace weights and running statistics, by their names in the model's state; others stay as they are."""
        unknown = self.model.load_state_dict(tensors, strict=False).unexpected_keys
        assert not unknown, unknown

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint holds; the tensors are live, not copies."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._arithmetic.scaler.state_dict(),
            "health": self.health.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty except in fp16, which `auto` may choose on another device
            self._arithmetic.scaler.load_state_dict(state["scaler"])
        self.health.load_state_dict(state["health"])
