"""The baseline must be the same training as ours, or its speed says nothing."""

from typing import Literal

import pytest
import torch

from simsiam.kernels.augment import augment_views
from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.loaders.synthetic_loader import SyntheticLoader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.synthetic_source import SyntheticSource
from simsiam.train.bench.baseline_step import BaselineStep
from simsiam.train.config import ModelConfig, OptimizerConfig, PretrainConfig
from simsiam.train.learner import build_model
from simsiam.train.loss import Objective
from simsiam.train.nonfinite_guard import NonfiniteGuard
from simsiam.train.optimizer import make_optimizer
from simsiam.train.precision import Arithmetic
from simsiam.train.step import train_step

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.mark.parametrize(("stem", "layers"), [("imagenet", 3), ("cifar", 2)])
def test_steps_of_the_baseline_are_ours(stem: Literal["imagenet", "cifar"], layers: Literal[2, 3]) -> None:
    model = ModelConfig("resnet18", stem, projector_layers=layers, projection_dim=32, prediction_hidden=8)
    optimizer = OptimizerConfig(base_lr=0.032)
    ours = build_model(PretrainConfig(model=model)).train()
    baseline = BaselineStep(model, optimizer, 16, CPU, mixed=False)
    baseline.network.load_state_dict(ours.state_dict(), strict=True)
    sgd = make_optimizer(ours, optimizer, 16)
    guard = NonfiniteGuard(ours, sgd)
    (crops,) = SyntheticLoader(CropPlan(SyntheticSource(16), Augmentation(), 16, 16), CPU).epoch(0)
    first, second = augment_views(crops.pixels, crops.draws, mean=MEAN, std=STD).chunk(2)
    for _ in range(2):
        loss = train_step(crops, Objective(ours), sgd, guard, Arithmetic(CPU, "fp32"), MEAN, STD).loss
        assert baseline((first, second)).item() == pytest.approx(loss.item(), abs=1e-5)
    for (name, value), expected in zip(ours.state_dict().items(), baseline.network.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4, msg=name)


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_float32() -> None:
    model = ModelConfig("resnet18", projection_dim=32, prediction_hidden=8)
    step = BaselineStep(model, OptimizerConfig(), 8, CPU, mixed=True)
    seen = set()
    step.network.encoder.conv1.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    loss = step((torch.randn(8, 3, 16, 16), torch.randn(8, 3, 16, 16)))
    assert seen == {torch.bfloat16} and -1 <= loss.item() <= 1
    assert {weight.dtype for weight in step.network.parameters()} == {torch.float32}
