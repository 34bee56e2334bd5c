"""Our training step against a second implementation, written here from arXiv 2011.10566 in plain PyTorch.

The reference computes in float64. A control, the reference in float32, measures in the same run what rounding may do:
our step, in float32 too, may be `MARGIN` times as far from float64 as the control is. So no bound is of one processor.

Where the input of a ReLU is within rounding of 0, rounding decides whether it passes, and a value that passes in only
one of two runs changes a gradient by up to 1 %, more than many a mistake. So both references pass what our step has
passed, and this must be what they would have passed themselves, except within rounding of 0.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simsiam.kernels.augment import augment_views
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.augmentation import Augmentation, Draws, draw
from simsiam.pipeline.crops import Crops
from simsiam.train.config import DataConfig, ModelConfig, OptimizerConfig, PretrainConfig
from simsiam.train.learner import Learner, build_model
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.precision import Arithmetic
from simsiam.train.recipe import load_config, recipe_file, recipe_names

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
EPOCHS, BATCH, SIZE = 4, 16, 8
RATE = 0.002
CONFIG = PretrainConfig(
    epochs=EPOCHS,
    batch_size=BATCH,
    seed=5,
    data=DataConfig(mean=MEAN, std=STD),
    model=ModelConfig(arch="resnet18", stem="cifar", projector_layers=3, projection_dim=32, prediction_hidden=8),
    optimizer=OptimizerConfig(base_lr=RATE * 256 / BATCH, weight_decay=1e-3, momentum=0.9),
)
FP32 = Arithmetic(torch.device("cpu"), "fp32")
MARGIN = 10
SMALLEST_MISTAKE = 1e-3
"""Relative error of a gradient that the bounds must find."""


class Gate(nn.Module):
    """ReLU that passes what it is told to; called for the first views, then for the second."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[Tensor] = []
        """For either view: which inputs to pass."""
        self.inputs: list[Tensor] = []
        """Those of the last step."""

    def forward(self, x: Tensor) -> Tensor:
        passed = self.passed[len(self.inputs)]
        self.inputs.append(x.detach())
        return torch.where(passed, x, 0)


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (arXiv 1512.03385, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = Gate()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = Gate()
        self.downsample = None
        if stride > 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(x)) + shortcut)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = Gate()
        widths = 64, 64, 128, 256, 512
        for stage in range(1, 5):
            inputs, outputs = widths[stage - 1 : stage + 1]
            blocks = Block(inputs, outputs, 1 if stage == 1 else 2), Block(outputs, outputs, 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean(dim=(2, 3))


class Reference(nn.Module):
    """Algorithm 1: f and h on one view after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        hidden = []
        for inputs in (512, 32):
            hidden += [nn.Linear(inputs, 32, bias=False), nn.BatchNorm1d(32), Gate()]
        self.projector = nn.Sequential(*hidden, nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32, affine=False))
        self.predictor = nn.Sequential(nn.Linear(32, 8, bias=False), nn.BatchNorm1d(8), Gate(), nn.Linear(8, 32))

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return distance(p1, z2) / 2 + distance(p2, z1) / 2

    def gates(self) -> dict[str, Gate]:
        return {name: module for name, module in self.named_modules() if isinstance(module, Gate)}


def distance(p: Tensor, z: Tensor) -> Tensor:
    """D of equation 1, with the stop-gradient of equation 3."""
    z = z.detach()
    return -((p / p.norm(dim=1, keepdim=True)) * (z / z.norm(dim=1, keepdim=True))).sum(dim=1).mean()


def crops_of_step(step: int) -> Crops:
    """Return crops of large random patches, so that the images differ and the views share something."""
    rng = np.random.default_rng(step)
    patches = rng.integers(0, 256, (BATCH, 1, 4, 4, 3)) + rng.integers(-30, 31, (BATCH, 2, 4, 4, 3))
    pixels = np.clip(patches, 0, 255).astype(np.uint8).repeat(SIZE // 4, axis=2).repeat(SIZE // 4, axis=3)
    index = np.arange(BATCH)
    draws = draw(Augmentation(), 7, step, index, np.full((BATCH, 2), 64), 2)
    on_device = Draws(*(torch.from_numpy(np.ascontiguousarray(numbers)) for numbers in draws))
    return Crops(torch.from_numpy(pixels), on_device, torch.from_numpy(index), torch.full((BATCH,), -1))


class ReferenceTraining:
    """`Reference` and SGD with momentum, where the predictor keeps its rate (section 4.2)."""

    def __init__(self, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
        # In the layout of ours, so that the control's convolutions are the same library's.
        self.network = Reference().to(dtype).to(memory_format=torch.channels_last).train()
        self.network.load_state_dict(weights, strict=True)
        self.velocity = {name: torch.zeros_like(weight) for name, weight in self.network.named_parameters()}
        self._dtype = dtype

    def step(self, crops: Crops, epoch: int, passed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take a step in which the ReLUs pass `passed`; return what it left: see `named`."""
        for name, gate in self.network.gates().items():
            gate.passed, gate.inputs = list(passed[name].chunk(2)), []
        views = augment_views(crops.pixels, crops.draws, mean=MEAN, std=STD).to(self._dtype)
        loss = self.network(*views.chunk(2))
        self.network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                assert weight.grad is not None
                self.velocity[name] = 0.9 * self.velocity[name] + weight.grad + 1e-3 * weight
                rate = RATE if name.startswith("predictor.") else RATE * (1 + math.cos(math.pi * epoch / EPOCHS)) / 2
                weight -= rate * self.velocity[name]
        return named(loss.detach(), self.network, self.velocity)


def record_relus(model: SimSiam) -> dict[str, Tensor]:
    """Return a table that each pass through `model` fills: what the ReLU of the reference's name has passed."""
    passed: dict[str, Tensor] = {}

    def keep_input(name: str) -> Callable[..., None]:
        return lambda module, inputs: passed.update({name: inputs[0].detach() > 0})

    def keep_output(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: passed.update({name: output.detach() > 0})

    model.encoder.layer1.register_forward_pre_hook(keep_input("encoder.relu"))
    for name in Reference().gates():
        owner, _, relu = name.rpartition(".")
        module = model.get_submodule(owner)
        if relu == "relu1":
            module.get_submodule("conv2").register_forward_pre_hook(keep_input(name))
        elif relu == "relu2":
            module.register_forward_hook(keep_output(name))
        elif relu != "relu":
            model.get_submodule(name).register_forward_hook(keep_output(name))
    return passed


def outcome(learner: Learner, loss: Tensor) -> dict[str, Tensor]:
    """Return what a step of ours left, under the names of `ReferenceTraining.step`."""
    buffers = learner.optimizer.state
    velocity = {name: buffers[weight]["momentum_buffer"] for name, weight in learner.model.named_parameters()}
    return named(loss, learner.model, velocity)


def named(loss: Tensor, network: nn.Module, velocity: dict[str, Tensor]) -> dict[str, Tensor]:
    velocity = {f"velocity of {name}": value for name, value in velocity.items()}
    return {"loss": loss, **network.state_dict(), **velocity}


class Deviations:
    """Distances from the exact values, by name: the largest of all steps."""

    def __init__(self) -> None:
        self._ours: dict[str, float] = defaultdict(float)
        self._control: dict[str, float] = defaultdict(float)

    def add(self, ours: dict[str, Tensor], control: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
        assert ours.keys() == control.keys() == exact.keys()
        for name, value in exact.items():
            for largest, other in ((self._ours, ours[name]), (self._control, control[name])):
                largest[name] = max(largest[name], (other.double() - value.double()).norm().item())

    def bound(self, name: str) -> float:
        return MARGIN * self._control[name]

    def check(self) -> None:
        beyond = {name: (off, self.bound(name)) for name, off in self._ours.items() if not off <= self.bound(name)}
        assert not beyond, f"{len(beyond)} values are further off than their bounds: {beyond}"


def channels_last(model: SimSiam, device: torch.device, **options: object) -> SimSiam:
    """Stand in for `prepare`, without its rewrites."""
    return model.to(memory_format=torch.channels_last)


def assert_relus_passed_what_they_should(reference: Reference, control: Reference) -> None:
    """Allow another decision than the sign's only where the input is within rounding of 0."""
    for (name, gate), other in zip(reference.gates().items(), control.gates().values(), strict=True):
        for x, rounded, passed in zip(gate.inputs, other.inputs, gate.passed, strict=True):
            rounding = (rounded.double() - x).abs().max()
            wrong = x[(x > 0) != passed]
            assert (wrong.abs() <= MARGIN * rounding).all(), f"{name} passed {wrong.tolist()}"


@pytest.mark.parametrize("on_a_cpu", [False, True], ids=["plain operations", "operations for a CPU"])
@pytest.mark.parametrize(
    ("zero_init", "steps_per_epoch"),
    [
        pytest.param(True, 2, id="blocks start as the identity"),
        pytest.param(False, 1, id="every layer learns"),  # and rounding grows by half with each step
    ],
)
def test_steps_are_those_of_the_paper(
    on_a_cpu: bool, zero_init: bool, steps_per_epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on_a_cpu:
        monkeypatch.setattr("simsiam.train.learner.prepare", channels_last)
    model = dataclasses.replace(CONFIG.model, zero_init_residual=zero_init)
    learner = Learner(dataclasses.replace(CONFIG, model=model), FP32)
    passed = record_relus(learner.model)
    weights = learner.model.state_dict()
    exact, control = ReferenceTraining(weights, torch.float64), ReferenceTraining(weights, torch.float32)
    deviations, expected = Deviations(), {}
    for step in range(EPOCHS * steps_per_epoch):
        epoch, crops = step // steps_per_epoch, crops_of_step(step)
        learner.set_learning_rate(epoch)
        ours = outcome(learner, learner.step(crops).loss)
        expected, rounded = exact.step(crops, epoch, passed), control.step(crops, epoch, passed)
        deviations.add(ours, rounded, expected)
        assert_relus_passed_what_they_should(exact.network, control.network)
    deviations.check()
    for name, value in expected.items():
        if name.startswith("velocity"):  # the bounds find a wrong gradient, and so whatever makes one wrong
            assert deviations.bound(name) < SMALLEST_MISTAKE * value.norm(), name


# Base rate × batch / 256, and warm-up; the rest is ½ (1 + cos) by hand.
RATES_BY_HAND = {
    "cifar10-resnet18": (0.06, 800, 0),
    "custom": (0.05, 200, 0),
    "demo": (0.075, 20, 3),
    "imagenet-resnet50": (0.05, 100, 0),
}


def test_every_recipe_has_rates_by_hand() -> None:
    assert set(RATES_BY_HAND) == set(recipe_names())


@pytest.mark.parametrize("recipe", RATES_BY_HAND)
def test_rates_of_every_epoch(recipe: str) -> None:
    config = load_config(recipe_file(recipe))
    initial, epochs, warm_up = RATES_BY_HAND[recipe]
    assert config.epochs == epochs
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)])
    for epoch in range(epochs):
        set_learning_rate(optimizer, config.optimizer, config.batch_size, epoch, epochs)
        expected = initial * math.cos(math.pi / 2 * (epoch - warm_up) / (epochs - warm_up)) ** 2
        if epoch < warm_up:
            expected = initial * (epoch + 1) / warm_up
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected, initial], rel=1e-9)


@pytest.mark.parametrize("recipe", RATES_BY_HAND)
def test_everything_decays_and_the_predictor_alone_keeps_its_rate(recipe: str) -> None:
    config = load_config(recipe_file(recipe))
    decay = 1e-4 if recipe in ("custom", "imagenet-resnet50") else 5e-4
    with torch.device("meta"):
        model = build_model(config)
    optimizer = make_optimizer(model, config.optimizer, config.batch_size)
    last = config.epochs - 1
    set_learning_rate(optimizer, config.optimizer, config.batch_size, last, config.epochs)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    settings = {
        names.pop(id(parameter)): (group["weight_decay"], group["lr"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert not names, "these are in no group"
    # Batch norms and biases are among them.
    assert {"encoder.bn1.weight", "encoder.bn1.bias", "predictor.3.bias"} <= set(settings)
    initial = RATES_BY_HAND[recipe][0]
    for name, (weight_decay, rate) in settings.items():
        assert weight_decay == decay, name
        assert (rate == pytest.approx(initial)) == name.startswith("predictor."), name
