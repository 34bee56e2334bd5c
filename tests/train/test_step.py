from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional
from torchvision.models import resnet18

from simsiam.kernels.augment import augment_views
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.augmentation import Augmentation, Draws
from simsiam.pipeline.crops import Crops
from simsiam.pipeline.loaders.open_loader import open_loader
from simsiam.pipeline.plan import CropPlan
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.config import ModelConfig, OptimizerConfig, PretrainConfig
from simsiam.train.learner import build_model
from simsiam.train.loss import Objective, StepOutput
from simsiam.train.nonfinite_guard import NonfiniteGuard
from simsiam.train.optimizer import make_optimizer
from simsiam.train.precision import Arithmetic
from simsiam.train.step import train_step

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SETTINGS = OptimizerConfig(base_lr=0.05, momentum=0.9, weight_decay=1e-3)
CONFIG = PretrainConfig(model=ModelConfig(arch="resnet18", projector_layers=2, projection_dim=32, prediction_hidden=8))
FP32 = Arithmetic(torch.device("cpu"), "fp32")
MARGIN = 10
"""How many times as far from the exact values as a control ours may be."""


@pytest.fixture(scope="module")
def batches(tiny_images: Path) -> list[Crops]:
    plan = CropPlan(open_source(tiny_images / "train"), Augmentation(), crop_size=16, batch_size=16)
    steps: Iterator[Crops] = open_loader("torch", plan, torch.device("cpu"), workers=0).epoch(0)
    return list(steps)


def one_step(model: SimSiam, crops: Crops, arithmetic: Arithmetic) -> StepOutput:
    optimizer = make_optimizer(model, SETTINGS, len(crops.index))
    return train_step(crops, Objective(model), optimizer, NonfiniteGuard(model, optimizer), arithmetic, MEAN, STD)


class TwoPasses(nn.Module):
    """SimSiam as arXiv 2011.10566, algorithm 1, writes it: torchvision's parts, one pass a view; in float64.

    The loss is that of the predictions and projections in `loss_dtype`.
    """

    def __init__(self, loss_dtype: torch.dtype) -> None:
        super().__init__()
        self.loss_dtype = loss_dtype
        self.encoder = resnet18()
        self.encoder.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
        self.projector = nn.Sequential(
            nn.Linear(512, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 32, bias=False),
            nn.BatchNorm1d(32, affine=False),
        )
        self.predictor = nn.Sequential(nn.Linear(32, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 32))
        self.double()

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        z = [self.projector(self.encoder(x.double())) for x in (x1, x2)]
        p1, p2, z1, z2 = (rows.to(self.loss_dtype) for rows in (*map(self.predictor, z), *z))
        near = functional.cosine_similarity(p1, z2.detach()), functional.cosine_similarity(p2, z1.detach())
        return -(near[0].mean() + near[1].mean()) / 2


def test_steps_equal_the_papers_two_passes(batches: list[Crops]) -> None:
    """Our network computes in float64, too, so that only the loss is in float32, as it always is.

    How far that may lead is measured by a control, the reference with a loss in float32.
    """
    model = build_model(CONFIG).double().train()
    model.register_forward_pre_hook(lambda module, views: (views[0].double(),))
    references = [TwoPasses(dtype) for dtype in (torch.float64, torch.float32)]
    plain = []
    for reference in references:
        reference.load_state_dict(model.state_dict())
        parameters = reference.parameters()
        plain.append(torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3, foreach=False))
    optimizer = make_optimizer(model, SETTINGS, batch_size=256)
    guard = NonfiniteGuard(model, optimizer)
    losses: list[list[float]] = []
    for crops in batches:
        output = train_step(crops, Objective(model), optimizer, guard, FP32, MEAN, STD)
        losses.append([output.loss.item()])
        for reference, sgd in zip(references, plain, strict=True):
            loss = reference(*augment_views(crops.pixels, crops.draws, mean=MEAN, std=STD).chunk(2))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses[-1].append(loss.item())
    ours, exact, control = torch.tensor(losses, dtype=torch.float64).unbind(1)
    # The float32 sum of 16 cosines may round by this much, even where that of the control didn't.
    assert (ours - exact).norm() <= MARGIN * max((control - exact).norm(), torch.finfo(torch.float32).eps)
    states = [network.state_dict() for network in (model, *references)]
    for name, expected in states[1].items():
        off, rounding = ((state[name].double() - expected.double()).norm() for state in (states[0], states[2]))
        assert off <= MARGIN * rounding, f"{name} is off by {off}, and by {rounding} where only the loss is rounded"


def test_step_reports_the_mean_spread_of_both_projections(batches: list[Crops]) -> None:
    model = build_model(CONFIG).train()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = one_step(model, batches[0], FP32)
    ((_, _, z1, z2),) = seen
    expected = (functional.normalize(z1).std(0).mean() + functional.normalize(z2).std(0).mean()) / 2
    assert output.output_std.item() == pytest.approx(expected.item(), rel=1e-6)
    assert not output.loss.requires_grad and not output.output_std.requires_grad


def test_no_gradient_is_carried_into_the_next_step(batches: list[Crops]) -> None:
    model = build_model(CONFIG).train()
    one_step(model, batches[0], FP32)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == []


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_step_keeps_weights_and_loss_in_float32(
    name: Literal["bf16", "fp16"], dtype: torch.dtype, batches: list[Crops]
) -> None:
    model = build_model(CONFIG).train()
    seen = []
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    arithmetic = Arithmetic(torch.device("cpu"), name)
    pixels, draws, index, label = batches[0]
    few = Crops(pixels[:4], Draws(*(numbers[:4] for numbers in draws)), index[:4], label[:4])
    output = one_step(model, few, arithmetic)
    assert seen == [dtype, dtype]
    assert (output.loss.dtype, output.output_std.dtype) == (torch.float32, torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_scaled_loss_gives_the_same_step(batches: list[Crops]) -> None:
    outcomes = []
    for scale in (None, 2.0**16):
        model = build_model(CONFIG).train()
        arithmetic = Arithmetic(torch.device("cpu"), "fp32")
        if scale:
            object.__setattr__(arithmetic, "scaler", GradScaler("cpu", init_scale=scale))
        optimizer = make_optimizer(model, SETTINGS, 16)
        guard = NonfiniteGuard(model, optimizer)
        step = partial(train_step, objective=Objective(model), optimizer=optimizer, guard=guard, arithmetic=arithmetic)
        losses = [step(crops, mean=MEAN, std=STD).loss for crops in batches[:2]]
        outcomes.append([*losses, *model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))
