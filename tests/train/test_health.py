import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from simsiam.pipeline.errors import RunError
from simsiam.train.config import HealthConfig
from simsiam.train.health import FiniteSteps, Health, Unhealthy

HEALTHY = 0.1


def network() -> tuple[nn.Module, torch.optim.SGD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)


def images(step: int, last: float = 1.0) -> Tensor:
    batch = torch.rand(6, 4, generator=torch.Generator().manual_seed(step))
    batch[-1, -1] *= last
    return batch


def take_step(model: nn.Module, optimizer: torch.optim.SGD, batch: Tensor) -> None:
    model(batch).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def everything(model: nn.Module, optimizer: torch.optim.SGD) -> list[Tensor]:
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    return [value.clone() for value in (*floats, *momenta)]


def assert_equal(ones: list[Tensor], others: list[Tensor]) -> None:
    assert len(ones) == len(others) and all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def test_watched_steps_are_the_very_steps_of_an_unwatched_optimizer() -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    FiniteSteps(watched, watched_optimizer)
    for step in range(5):
        take_step(model, optimizer, images(step))
        take_step(watched, watched_optimizer, images(step))
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))


@pytest.mark.parametrize("last", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad", [{0}, {2}, {1, 2, 4}])
def test_step_with_a_gradient_that_is_not_finite_is_as_if_not_taken(bad: set[int], last: float) -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    steps = FiniteSteps(watched, watched_optimizer)
    for step in range(5):
        take_step(watched, watched_optimizer, images(step, last if step in bad else 1.0))
        if step not in bad:
            take_step(model, optimizer, images(step))
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))
    assert (int(steps.skipped), int(steps.streak)) == (len(bad), int(4 in bad))


def test_counts_and_statistics_come_back() -> None:
    model, optimizer = network()
    steps = FiniteSteps(model, optimizer)
    take_step(model, optimizer, images(0))
    take_step(model, optimizer, images(1, float("nan")))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), steps.state_dict()))
    again, again_optimizer = network()
    resumed = FiniteSteps(again, again_optimizer)
    again.load_state_dict(saved[0])
    again_optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    take_step(again, again_optimizer, images(2, float("nan")))
    assert_equal(everything(again, again_optimizer), everything(model, optimizer))
    assert (int(resumed.skipped), int(resumed.streak)) == (2, 2)


def take_scaled_step(model: nn.Module, optimizer: torch.optim.SGD, scaler: GradScaler, batch: Tensor) -> None:
    scaler.scale(model(batch).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()


def test_scaled_steps_are_the_very_steps_without_a_scale() -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    FiniteSteps(watched, watched_optimizer)
    scaler = GradScaler("cpu", init_scale=2.0**16)
    for step in range(5):
        take_step(model, optimizer, images(step))
        take_scaled_step(watched, watched_optimizer, scaler, images(step))
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))


def test_steps_that_find_the_scale_change_nothing_and_are_not_ill() -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    steps = FiniteSteps(watched, watched_optimizer)
    for parameter in watched.parameters():  # more than float16 holds
        parameter.register_hook(lambda gradient: torch.where(gradient.abs() > 65504, torch.inf, gradient))
    scaler = GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    for step in range(4):
        take_scaled_step(watched, watched_optimizer, scaler, images(step))
        if step > 0:
            take_step(model, optimizer, images(step))
    assert scaler.get_scale() == 2.0**10
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))
    assert (int(steps.skipped), int(steps.streak)) == (0, 0)


def test_step_whose_forward_pass_is_not_finite_is_ill_at_any_scale() -> None:
    model, optimizer = network()
    steps, scaler = FiniteSteps(model, optimizer), GradScaler("cpu", init_scale=2.0**16)
    before = everything(model, optimizer)
    for step in range(3):
        take_scaled_step(model, optimizer, scaler, images(step, float("inf")))
    assert_equal(everything(model, optimizer), before)
    assert (int(steps.skipped), int(steps.streak), scaler.get_scale()) == (3, 3, 2.0**13)


def test_gradient_that_no_scale_makes_finite_is_ill() -> None:
    model, optimizer = network()
    steps, scaler = FiniteSteps(model, optimizer), GradScaler("cpu", init_scale=4.0)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    for step in range(5):  # at 4, 2, 1, ½ and ¼
        take_scaled_step(model, optimizer, scaler, images(step))
    assert (int(steps.skipped), int(steps.streak)) == (3, 3)


def watched_by(**settings: Any) -> tuple[Health, nn.Module, torch.optim.SGD]:
    model, optimizer = network()
    return Health(HealthConfig(**settings), model, optimizer, HEALTHY), model, optimizer


def record(step: int, loss: float = -0.5, output_std: float = HEALTHY) -> dict[str, Any]:
    return {"step": step, "loss": loss, "output_std": output_std}


def test_skipped_steps_are_told_once() -> None:
    health, model, optimizer = watched_by()
    for step in range(2):
        take_step(model, optimizer, images(step, float("nan")))
    with pytest.warns(UserWarning, match=r"Steps skipped before step 5, .*: 2 \(2 in all\)"):
        assert health.look(record(5))["skipped_steps"] == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert health.look(record(10))["skipped_steps"] == 2


def test_run_stops_when_no_gradient_is_finite_any_more() -> None:
    health, model, optimizer = watched_by()
    for step in range(10):
        take_step(model, optimizer, images(step, float("nan")))
    with pytest.raises(RunError, match="No gradient was finite in the 10 steps before step 12"):
        health.look(record(12))


def test_run_stops_at_one_gradient_if_told_so() -> None:
    health, model, optimizer = watched_by(on_nonfinite="stop")
    assert health.check_steps(0) == 0
    take_step(model, optimizer, images(0, float("nan")))
    with pytest.raises(RunError, match="A gradient was not finite in one of the last steps before step 1;"):
        health.check_steps(1)


def test_run_that_stops_at_one_gradient_can_be_saved_however_many_followed() -> None:
    health, model, optimizer = watched_by(on_nonfinite="stop")
    for step in range(12):
        take_step(model, optimizer, images(step, float("nan")))
    with pytest.raises(Unhealthy, match=r"go on from it with --health\.on-nonfinite skip"):
        health.check_steps(12)
    assert health.check_steps(12) == 12


def test_step_that_only_finds_the_scale_counts_as_skipped_for_its_line() -> None:
    health, model, optimizer = watched_by()
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    assert not health.last_step_was_skipped()
    take_scaled_step(model, optimizer, GradScaler("cpu", init_scale=2.0**16), images(0))
    assert health.last_step_was_skipped() and health.check_steps(1) == 0


@pytest.mark.parametrize("sign", [{"output_std": 0.19 * HEALTHY}, {"loss": -0.9995}, {"output_std": float("nan")}])
def test_collapse_is_told_once_when_it_has_lasted(sign: dict[str, float]) -> None:
    health, *_ = watched_by(collapse_steps=100)
    assert health.look(record(50)) == {"skipped_steps": 0, "collapsed_steps": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert health.look(record(100, **sign))["collapsed_steps"] == 50
    with pytest.warns(UserWarning, match="The output has collapsed: for 100 steps .*step 150: spread"):
        health.look(record(150, **sign))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert health.look(record(200, **sign))["collapsed_steps"] == 150
        assert health.look(record(250))["collapsed_steps"] == 0
        assert health.look(record(300, **sign))["collapsed_steps"] == 50


def test_collapse_ends_the_run_or_is_let_be_as_told() -> None:
    stopping, *_ = watched_by(collapse_steps=100, on_collapse="stop")
    with pytest.raises(RunError, match="The output has collapsed"):
        stopping.look(record(100, output_std=0.0))
    ignoring, *_ = watched_by(collapse_steps=100, on_collapse="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ignoring.look(record(100, output_std=0.0))["collapsed_steps"] == 100


def test_collapse_is_counted_on_after_a_resume() -> None:
    first, *_ = watched_by(collapse_steps=100)
    first.look(record(50))
    second, *_ = watched_by(collapse_steps=100)
    second.load_state_dict(first.state_dict())
    assert second.look(record(100, output_std=0.0))["collapsed_steps"] == 50
