"""Our training step on tensors that are said to be a GPU's, and have shapes but no values.

Whatever asks for a value, and so would wait for the device, is an error, and so is an operation between two devices.
This needs no GPU; what a real one says to it is in tests/gpu.
"""

from collections.abc import Iterator
from typing import get_args

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from simsiam.model.activation_checkpointing import recompute_blocks
from simsiam.model.fused_batch_norm import fuse_batch_norm
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.augmentation import Augmentation, Draws, draw
from simsiam.pipeline.crops import Crops
from simsiam.train.config import ModelConfig, OptimizerConfig, PrecisionName, PretrainConfig
from simsiam.train.learner import build_model
from simsiam.train.loss import Objective
from simsiam.train.nonfinite_guard import NonfiniteGuard
from simsiam.train.optimizer import make_optimizer
from simsiam.train.precision import choose_arithmetic
from simsiam.train.run.metrics import StepWindow
from simsiam.train.step import train_step

BATCH, SIZE = 8, 32
GPU = torch.device("cuda", 0)
CONFIG = PretrainConfig(model=ModelConfig(arch="resnet18", stem="cifar", projection_dim=64, prediction_hidden=16))


class NothingWaits(TorchDispatchMode):
    """Refuses copies between the devices that the host waits for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source = args[0] if func is torch.ops.aten._to_copy.default else args[1]
            waits = not (kwargs or {}).get("non_blocking", len(args) > 2 and args[2])
            assert source.device == result.device or not waits, f"{func} from {source.device} to {result.device} waits"
        return result


@pytest.fixture
def model() -> SimSiam:
    return build_model(CONFIG).to(memory_format=torch.channels_last).train()


@pytest.fixture
def without_values(model: SimSiam, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have PyTorch take a GPU for granted, and leave out what needs more of one than its name."""
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch._fused_sgd_", lambda *arguments, **settings: None)
    with FakeTensorMode(allow_non_fake_inputs=True), NothingWaits():
        yield


def crops_on_gpu() -> Crops:
    index = np.arange(BATCH)
    draws = draw(Augmentation(), 7, 0, index, np.full((BATCH, 2), 64), 2)
    shape = (BATCH, 2, SIZE, SIZE, 3)
    on_gpu = Draws(*(torch.empty(part.shape, dtype=torch.from_numpy(part).dtype, device=GPU) for part in draws))
    numbers = torch.empty(BATCH, dtype=torch.int64, device=GPU)
    return Crops(torch.empty(shape, dtype=torch.uint8, device=GPU), on_gpu, numbers, numbers)


@pytest.mark.usefixtures("without_values")
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain batch norm", "fused batch norm"])
@pytest.mark.parametrize("precision", get_args(PrecisionName))
def test_step_asks_for_no_value(
    model: SimSiam, precision: PrecisionName, fused: bool, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.to_empty(device=GPU)
    if fused:
        fuse_batch_norm(model.encoder)
    if recompute:
        recompute_blocks(model.encoder)
    optimizer = make_optimizer(model, OptimizerConfig(), BATCH)
    guard = NonfiniteGuard(model, optimizer)
    window, arithmetic, crops = StepWindow(GPU), choose_arithmetic(GPU, precision), crops_on_gpu()

    def backward(loss: torch.Tensor) -> None:
        # Autograd's own threads want a device; the backward of each operation has tests of its own.
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    mean, std = (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)
    for _ in range(2):
        output = train_step(crops, Objective(model), optimizer, guard, arithmetic, mean, std)
        window.add(output, 0.0)
        assert output.loss.device == window.sums.device == GPU
    assert arithmetic.scaler.is_enabled() == (precision == "fp16")


@pytest.mark.usefixtures("without_values")
def test_a_step_that_asks_for_a_value_would_be_found() -> None:
    with pytest.raises(DataDependentOutputException):
        float(torch.ones((), device=GPU))
    with pytest.raises(AssertionError, match="waits"):
        torch.ones(3).to(GPU)
    assert torch.ones(3).to(GPU, non_blocking=True).device == GPU
