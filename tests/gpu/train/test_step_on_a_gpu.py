"""Our training step on a GPU: it waits for nothing, and as a CUDA graph it is the same step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import pytest
import torch

from simsiam.model.prepare import prepare
from simsiam.pipeline.augmentation import Augmentation, Draws, draw
from simsiam.pipeline.crops import Crops
from simsiam.train.config import ModelConfig, OptimizerConfig, PrecisionName, PretrainConfig
from simsiam.train.cuda_graph import GraphedStep
from simsiam.train.learner import build_model
from simsiam.train.loss import Objective, StepOutput
from simsiam.train.nonfinite_guard import NonfiniteGuard
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.precision import choose_arithmetic
from simsiam.train.run.metrics import StepWindow
from simsiam.train.step import train_step

if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)

BATCH, SIZE, STEPS, EPOCHS = 32, 32, 10, 4
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
OPTIMIZER = OptimizerConfig(base_lr=0.2, weight_decay=1e-3)
CONFIG = PretrainConfig(model=ModelConfig(arch="resnet18", stem="cifar", projection_dim=64, prediction_hidden=16))
PRECISIONS: list[PrecisionName] = ["fp32", "tf32", "bf16", "fp16"]


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def crops_of_step(step: int, device: torch.device) -> Crops:
    rng = np.random.default_rng(step)
    patches = rng.integers(0, 256, (BATCH, 1, 4, 4, 3)) + rng.integers(-30, 31, (BATCH, 2, 4, 4, 3))
    pixels = np.clip(patches, 0, 255).astype(np.uint8).repeat(SIZE // 4, axis=2).repeat(SIZE // 4, axis=3)
    index = np.arange(BATCH)
    draws = draw(Augmentation(), 7, step, index, np.full((BATCH, 2), 64), 2)
    on_device = Draws(*(torch.from_numpy(np.ascontiguousarray(numbers)).to(device) for numbers in draws))
    label = torch.full((BATCH,), -1, device=device)
    return Crops(torch.from_numpy(pixels).to(device), on_device, torch.from_numpy(index).to(device), label)


class Training:
    """All that a step changes, from the same beginning each time."""

    def __init__(
        self,
        device: torch.device,
        precision: PrecisionName,
        recompute: bool = False,
        fused_batch_norm: Literal["on", "off"] = "off",
    ) -> None:
        torch.backends.cudnn.benchmark = False  # which may choose other algorithms the second time
        self.arithmetic = choose_arithmetic(device, precision)
        self.model = prepare(
            build_model(CONFIG), device, fused_batch_norm=fused_batch_norm, recompute=recompute
        ).train()
        self.optimizer = make_optimizer(self.model, OPTIMIZER, BATCH)
        self.steps = NonfiniteGuard(self.model, self.optimizer)
        self.window = StepWindow(device)

    def step(self, crops: Crops) -> StepOutput:
        return train_step(crops, Objective(self.model), self.optimizer, self.steps, self.arithmetic, MEAN, STD)

    def take(self, step: Callable[[Crops], StepOutput], batches: list[Crops]) -> list[float]:
        losses = []
        for number, crops in enumerate(batches):
            set_learning_rate(self.optimizer, OPTIMIZER, BATCH, number // 4, EPOCHS)  # which a graph holds fast
            output = step(crops)
            self.window.add(output, 0.0)
            losses.append(output.loss.clone())
        return torch.stack(losses).tolist()


@pytest.fixture(scope="module")
def batches() -> list[Crops]:
    return [crops_of_step(step, torch.device("cuda", torch.cuda.current_device())) for step in range(STEPS)]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("fused", ["on", "off"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_step_waits_for_nothing(
    precision: PrecisionName, fused: Literal["on", "off"], recompute: bool, batches: list[Crops], device: torch.device
) -> None:
    training = Training(device, precision, recompute, fused)
    for crops in batches[:3]:  # kernels are compiled, libraries loaded
        training.window.add(training.step(crops), 0.0)
    with waiting_is_an_error():
        for crops in batches[3:6]:
            training.window.add(training.step(crops), 0.0)
    assert training.window.sums.isfinite().all()


def test_steps_with_the_fused_batch_norm_are_the_plain_ones(batches: list[Crops], device: torch.device) -> None:
    plain, fused = (Training(device, "fp32", fused_batch_norm=each) for each in ("off", "on"))
    expected, losses = (training.take(training.step, batches[:3]) for training in (plain, fused))
    assert losses == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graph_takes_the_very_steps(precision: PrecisionName, batches: list[Crops], device: torch.device) -> None:
    torch.backends.cudnn.deterministic = True
    try:
        eager, graphed = Training(device, precision), Training(device, precision)
        expected = eager.take(eager.step, batches)
        losses = graphed.take(GraphedStep(graphed.step, graphed.optimizer), batches)
    finally:
        torch.backends.cudnn.deterministic = False
    tolerance = 1e-4 if precision == "fp32" else 1e-2
    assert losses == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert graphed.window.sums.tolist() == pytest.approx(eager.window.sums.tolist(), rel=tolerance, abs=tolerance)
    for (name, value), other in zip(graphed.model.state_dict().items(), eager.model.state_dict().values(), strict=True):
        if name.endswith("num_batches_tracked"):
            assert int(value) == int(other) == 2 * STEPS
        else:
            torch.testing.assert_close(value, other, rtol=10 * tolerance, atol=10 * tolerance, msg=name)
    assert graphed.arithmetic.scaler.state_dict() == eager.arithmetic.scaler.state_dict()
    assert int(graphed.steps.skipped) == 0


def test_graph_waits_for_nothing_once_it_is_captured(batches: list[Crops], device: torch.device) -> None:
    training = Training(device, "bf16")
    step = GraphedStep(training.step, training.optimizer)
    for crops in batches[:4]:
        step(crops)
    with waiting_is_an_error():
        for crops in batches[4:]:
            training.window.add(step(crops), 0.0)
    assert int(training.window.sums[2]) == STEPS - 4


def test_recompute_takes_less_memory(batches: list[Crops], device: torch.device) -> None:
    peaks = []
    for recompute in (False, True):
        training = Training(device, "bf16", recompute)
        training.step(batches[0])
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training.step(batches[1])
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del training
    assert peaks[1] < peaks[0]
