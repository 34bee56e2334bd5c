from typing import cast

import pytest
import torch
from torch import nn

from simsiam.model.resnet import ResNet, resnet
from simsiam.model.simsiam import SimSiam
from simsiam.train.config import OptimizerConfig
from simsiam.train.optimizer import make_optimizer, set_learning_rate
from simsiam.train.recipe import load_config, recipe_file, recipe_names


@pytest.fixture(scope="module")
def model() -> SimSiam:
    torch.manual_seed(0)
    return SimSiam(resnet("resnet18"), projection_dim=16, prediction_hidden=4, projector_layers=2)


def small() -> SimSiam:
    """A SimSiam whose encoder has all kinds of parameters, and few of them."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    encoder.feature_dim = 4  # pyright: ignore[reportArgumentType]
    return SimSiam(cast(ResNet, encoder), projection_dim=16, prediction_hidden=4, projector_layers=2)


def test_every_parameter_is_in_one_group_the_predictors_in_the_second(model: SimSiam) -> None:
    rest, predictor = make_optimizer(model, OptimizerConfig(), 256).param_groups
    assert {id(parameter) for parameter in predictor["params"]} == {id(each) for each in model.predictor.parameters()}
    held = [id(parameter) for group in (rest, predictor) for parameter in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(parameter) for parameter in model.parameters()}


def test_both_groups_decay_alike_as_in_the_reference(model: SimSiam) -> None:
    config = OptimizerConfig(base_lr=0.03, momentum=0.8, weight_decay=5e-4)
    for group in make_optimizer(model, config, 512).param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (pytest.approx(0.06), 0.8, 5e-4)
        assert (group["nesterov"], group["dampening"]) == (False, 0)


@pytest.mark.parametrize("name", recipe_names())
def test_predictor_keeps_its_rate_while_the_encoders_falls(name: str, model: SimSiam) -> None:
    config = load_config(recipe_file(name))
    optimizer = make_optimizer(model, config.optimizer, config.batch_size)
    initial = config.optimizer.base_lr * config.batch_size / 256
    for epoch in (0, config.epochs // 2, config.epochs - 1):
        rate = set_learning_rate(optimizer, config.optimizer, config.batch_size, epoch, config.epochs)
        assert optimizer.param_groups[0]["lr"] == rate
        assert optimizer.param_groups[1]["lr"] == initial
    assert rate < 0.1 * initial


def test_predictor_rate_can_follow_the_schedule(model: SimSiam) -> None:
    config = OptimizerConfig(fixed_predictor_lr=False)
    optimizer = make_optimizer(model, config, 256)
    assert set_learning_rate(optimizer, config, 256, epoch=5, epochs=10) == pytest.approx(0.025)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.025)


def test_warm_up_spares_the_fixed_predictor(model: SimSiam) -> None:
    config = OptimizerConfig(warmup_epochs=4)
    optimizer = make_optimizer(model, config, 256)
    assert set_learning_rate(optimizer, config, 256, epoch=0, epochs=10) == pytest.approx(0.0125)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.05)


def test_two_steps_are_sgd_with_momentum_and_decay_on_everything() -> None:
    model = small()
    config = OptimizerConfig(base_lr=0.1, momentum=0.9, weight_decay=0.01)
    optimizer = make_optimizer(model, config, batch_size=256)
    set_learning_rate(optimizer, config, 256, epoch=1, epochs=2)  # halfway: 0.05, and 0.1 for the predictor
    generator = torch.Generator().manual_seed(0)
    expected, velocity = {}, {}
    for name, parameter in model.named_parameters():
        expected[name] = parameter.detach().double()
        velocity[name] = torch.zeros_like(expected[name])
    for _ in range(2):
        for name, parameter in model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            gradient = parameter.grad.double() + 0.01 * expected[name]
            velocity[name] = 0.9 * velocity[name] + gradient
            expected[name] = expected[name] - (0.1 if name.startswith("predictor.") else 0.05) * velocity[name]
        optimizer.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
