"""Contenders of `simsiam bench step` and `bench train`: each row by name, with its batches and its training step."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.open_loader import open_loader
from simsiam.pipeline.sources.open_source import open_source
from simsiam.pipeline.sources.synthetic_source import SyntheticSource
from simsiam.pipeline.worker_count import worker_count
from simsiam.train.bench.baseline_step import BaselineStep
from simsiam.train.bench.loader_batches import LongPlan
from simsiam.train.bench.rows import StepRowName, TrainRowName, is_baseline
from simsiam.train.bench.step_stages import Products
from simsiam.train.config import PretrainConfig
from simsiam.train.learner import Learner
from simsiam.train.precision import choose_arithmetic
from simsiam.train.run.metrics import StepWindow
from simsiam.train.step import Mark

_ENDLESS = 1_000_000
"""Epochs of our loader, steps of the baseline's."""


@dataclass(frozen=True)
class StepSettings:
    """What a row measures."""

    name: StepRowName | TrainRowName
    config: PretrainConfig
    """Model, size, batch, precision, compilation, device; in `bench train` source, backend and workers, too."""
    images: Path | None
    """Folder that the baseline's loader reads; None: its views are ready on the device."""
    seconds: float
    """Length of a round."""
    trace: Path | None = None
    """File for a trace of some steps."""
    product_side: int | None = None
    """See `measure_products`."""

    @property
    def workers(self) -> int:
        """Processes or threads of the row's loader."""
        return worker_count(self.config.data.workers)


class StepRow(NamedTuple):
    """An open row: its batches, and the step that it takes on one."""

    batches: Iterator[Any]
    step: Callable[[Any, Mark], object]
    model: nn.Module
    backend: str
    """Source of the batches."""
    precision: str
    products: Products
    """Arithmetic of its convolutions and matrix products."""


def open_row(settings: StepSettings, device: torch.device, held: ExitStack) -> StepRow:
    """Open what a row needs; `held` closes it."""
    return (_baseline if is_baseline(settings.name) else _ours)(settings, device, held)


def _ours(settings: StepSettings, device: torch.device, held: ExitStack) -> StepRow:
    config, data = settings.config, settings.config.data
    arithmetic = choose_arithmetic(device, config.precision)
    source = SyntheticSource(config.batch_size) if data.path is None else open_source(data.path)
    plan = LongPlan(source, Augmentation(), data.size, config.batch_size)
    loader = held.enter_context(open_loader(data.backend, plan, device, settings.workers))
    learner = Learner(config, arithmetic)
    learner.set_learning_rate(epoch=0)
    window = StepWindow(device)  # what pretrain does with each step's output, too

    def step(crops: Any, mark: Mark) -> None:
        window.add(learner.step(crops, mark), wait_seconds=0.0)

    batches = (crops for epoch in range(_ENDLESS) for crops in loader.epoch(epoch))
    products = Products(arithmetic.dtype, tf32=arithmetic.name == "tf32")
    return StepRow(batches, step, learner.model, data.backend, arithmetic.name, products)


def _baseline(settings: StepSettings, device: torch.device, held: ExitStack) -> StepRow:
    config, mixed = settings.config, settings.name == "baseline-amp"
    step = BaselineStep(config.model, config.optimizer, config.batch_size, device, mixed)
    batches = _ready_views(config, device) if settings.images is None else _baseline_views(settings, device)
    held.enter_context(closing(batches))
    backend = "synthetic" if settings.images is None else "imagefolder-pil"
    if mixed:
        precision = "AMP (bf16)" if step.dtype == torch.bfloat16 else "AMP (fp16)"
    else:
        # PyTorch's default, which most trainings keep.
        precision = "fp32, convolutions in tf32" if device.type == "cuda" else "fp32"
    products = Products(step.dtype, tf32=device.type == "cuda" and not mixed)
    return StepRow(batches, step, step.network, backend, precision, products)


def _ready_views(config: PretrainConfig, device: torch.device) -> Generator[tuple[Tensor, ...]]:
    shape = (config.batch_size, 3, config.data.size, config.data.size)
    views = tuple(torch.randn(shape, device=device) for _ in range(2))
    while True:
        yield views


def _baseline_views(settings: StepSettings, device: torch.device) -> Generator[tuple[Tensor, ...]]:
    from simsiam.train.bench.baseline_image_folder import image_folder_loader, reference_transform

    config, gpu = settings.config, device.type == "cuda"
    assert settings.images is not None
    transform, workers = reference_transform(config.data.size), settings.workers
    loader = image_folder_loader(settings.images, transform, config.batch_size, workers, _ENDLESS, pin_memory=gpu)
    for views, _ in loader:
        yield tuple(view.to(device, non_blocking=True) for view in views)
