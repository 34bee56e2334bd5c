"""Our training step against a second implementation, written here from arXiv 2011.10566 in plain PyTorch."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from simsiam.kernels.augment import augment_views
from simsiam.model.prepare import prepare
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.augmentation import Augmentation, Draws, draw
from simsiam.pipeline.crops import Crops
from simsiam.train.config import ModelConfig, OptimizerConfig, PretrainConfig
from simsiam.train.learner import build_model
from simsiam.train.loss import Objective, StepOutput
from simsiam.train.nonfinite_guard import NonfiniteGuard
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.precision import Arithmetic
from simsiam.train.recipe import load_config, recipe_file, recipe_names
from simsiam.train.step import train_step

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
STEPS, STEPS_PER_EPOCH, EPOCHS, BATCH, SIZE = 8, 2, 4, 16, 16
CONFIG = PretrainConfig(
    epochs=EPOCHS,
    batch_size=BATCH,
    seed=5,
    model=ModelConfig(arch="resnet18", stem="cifar", projector_layers=3, projection_dim=32, prediction_hidden=8),
    optimizer=OptimizerConfig(base_lr=0.032, weight_decay=1e-3, momentum=0.9),
)
FP32 = Arithmetic(torch.device("cpu"), "fp32")


class Block(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (arXiv 1512.03385, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(x)) + shortcut)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        widths = 64, 64, 128, 256, 512
        for stage in range(1, 5):
            inputs, outputs = widths[stage - 1 : stage + 1]
            blocks = Block(inputs, outputs, 1 if stage == 1 else 2), Block(outputs, outputs, 1)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
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
            hidden += [nn.Linear(inputs, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU()]
        self.projector = nn.Sequential(*hidden, nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32, affine=False))
        self.predictor = nn.Sequential(nn.Linear(32, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 32))

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        z1, z2 = self.projector(self.encoder(x1)), self.projector(self.encoder(x2))
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return distance(p1, z2) / 2 + distance(p2, z1) / 2


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
    """`Reference` and SGD with momentum, the predictor's rate fixed (section 4.2), in the dtype of `weights`."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.dtype = weights["encoder.conv1.weight"].dtype
        self.network = Reference().to(self.dtype).train()
        if self.dtype == torch.float32:
            # In the layout of ours: else convolutions round differently, which small batches amplify a thousandfold.
            self.network.to(memory_format=torch.channels_last)
        self.network.load_state_dict(weights, strict=True)
        self.velocity = {name: torch.zeros_like(weight) for name, weight in self.network.named_parameters()}

    def step(self, crops: Crops, epoch: int) -> float:
        views = augment_views(crops.pixels, crops.draws, mean=MEAN, std=STD).to(self.dtype)
        loss = self.network(*views.chunk(2))
        self.network.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, weight in self.network.named_parameters():
                assert weight.grad is not None
                self.velocity[name] = 0.9 * self.velocity[name] + weight.grad + 1e-3 * weight
                rate = 0.002 if name.startswith("predictor.") else 0.002 * (1 + math.cos(math.pi * epoch / 4)) / 2
                weight -= rate * self.velocity[name]
        return loss.item()


class InFloat64(nn.Module):
    """Our model in float64, and its views as well; the cosine in plain PyTorch, since ours is float32 by design."""

    def __init__(self, model: SimSiam) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, views: Tensor) -> StepOutput:
        p1, p2, z1, z2 = self.model(views.double())
        near = functional.cosine_similarity(p1, z2), functional.cosine_similarity(p2, z1)
        return StepOutput(-(near[0].mean() + near[1].mean()) / 2, z1.std())


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def one_ulp_away(state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Move each weight to the next float above or below, at random: as far as any rounding must be allowed to go."""
    generator = torch.Generator().manual_seed(seed)
    moved = copied(state)
    for value in moved.values():
        if value.is_floating_point():
            up = torch.rand(value.shape, generator=generator) < 0.5
            value.copy_(value.nextafter(torch.where(up, torch.inf, -torch.inf)))
    return moved


def test_steps_of_four_epochs_are_those_of_the_paper() -> None:
    """In float64, where rounding is a millionth of the bound on any processor, so that the arithmetic alone is seen.

    The batch norms that end a block start at 0, as in the recipes, and the rate is small. With 1 and ten times the rate
    any two ways to round part by a factor of 10 a step: a ReLU whose input is within rounding of 0 is cut in one alone.
    """
    model = build_model(CONFIG).train()
    objective = InFloat64(model)
    reference = ReferenceTraining(copied(model.state_dict()))
    optimizer = make_optimizer(model, CONFIG.optimizer, BATCH)
    guard = NonfiniteGuard(model, optimizer)
    for step in range(STEPS):
        epoch = step // STEPS_PER_EPOCH
        set_learning_rate(optimizer, CONFIG.optimizer, BATCH, epoch, EPOCHS)
        crops = crops_of_step(step)
        loss = train_step(crops, objective, optimizer, guard, FP32, MEAN, STD).loss.item()
        assert loss == pytest.approx(reference.step(crops, epoch), abs=1e-9)
    for (name, value), expected in zip(
        model.state_dict().items(), reference.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-9, msg=name)


@pytest.mark.parametrize("on_a_cpu", [False, True], ids=["plain operations", "operations for a CPU"])
def test_single_steps_of_a_network_whose_every_layer_learns_are_those_of_the_paper(on_a_cpu: bool) -> None:
    """In float32. Both start each step from the same state, without momentum.

    What rounding may do is measured in the same run: by the reference, started one ulp away.
    """
    model = build_model(dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, zero_init_residual=False)))
    model = (prepare(model, FP32.device) if on_a_cpu else model.to(memory_format=torch.channels_last)).train()
    for step in range(5):
        start, crops = copied(model.state_dict()), crops_of_step(step)
        optimizer = make_optimizer(model, CONFIG.optimizer, BATCH)
        set_learning_rate(optimizer, CONFIG.optimizer, BATCH, 0, EPOCHS)
        guard = NonfiniteGuard(model, optimizer)
        loss = train_step(crops, Objective(model), optimizer, guard, FP32, MEAN, STD).loss.item()
        reference = ReferenceTraining(start)
        expected_loss, expected = reference.step(crops, 0), reference.network.state_dict()
        controls = [ReferenceTraining(one_ulp_away(start, seed)) for seed in range(3)]
        spread = max(abs(control.step(crops, 0) - expected_loss) for control in controls)
        assert abs(loss - expected_loss) < min(20 * spread + 1e-6, 1e-4)
        for name, value in expected.items():
            if name.endswith("num_batches_tracked"):
                assert model.state_dict()[name] == value
                continue
            # A ReLU that is cut in one alone changes a gradient by up to 1 %.
            allowed = 20 * max((control.network.state_dict()[name] - value).norm() for control in controls)
            change = (value - start[name]).norm()
            assert (model.state_dict()[name] - value).norm() < max(allowed, 0.05 * change), name


def test_each_step_with_the_operations_for_a_cpu_is_that_of_the_plain_ones() -> None:
    """Both begin each step from the same state.

    Left to itself, any two ways to round go apart as soon as a ReLU has its input within rounding of 0, and is cut in
    the one alone: after 20 steps of this the losses differ by 1e-3, with another number of threads as well.
    """
    plain = build_model(CONFIG).to(memory_format=torch.channels_last).train()
    quick = prepare(build_model(CONFIG), torch.device("cpu")).train()
    optimizers = [make_optimizer(model, CONFIG.optimizer, BATCH) for model in (plain, quick)]
    guards = list(map(NonfiniteGuard, (plain, quick), optimizers))
    for step in range(5):
        crops = crops_of_step(step)
        outputs = [
            train_step(crops, Objective(model), optimizer, guard, FP32, MEAN, STD)
            for model, optimizer, guard in zip((plain, quick), optimizers, guards, strict=True)
        ]
        torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
        for (name, value), expected in zip(quick.state_dict().items(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5, msg=name)
        quick.load_state_dict(plain.state_dict())
        optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))


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
