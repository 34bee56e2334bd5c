import copy

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from simsiam.train.nonfinite_guard import NonfiniteGuard

UNSCALED = GradScaler("cpu", enabled=False)


def network() -> tuple[nn.Module, torch.optim.SGD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=True)


def images(step: int, last: float = 1.0) -> Tensor:
    batch = torch.rand(6, 4, generator=torch.Generator().manual_seed(step))
    batch[-1, -1] *= last
    return batch


def take_step(model: nn.Module, optimizer: torch.optim.SGD, batch: Tensor, guard: NonfiniteGuard | None = None) -> None:
    """Take a step through `guard`, or without one."""
    model(batch).square().mean().backward()
    if guard is None:
        optimizer.step()
    else:
        guard.step(UNSCALED)
    optimizer.zero_grad()


def everything(model: nn.Module, optimizer: torch.optim.SGD) -> list[Tensor]:
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    floats = [value for value in model.state_dict().values() if value.is_floating_point()]
    return [value.clone() for value in (*floats, *momenta)]


def assert_equal(ones: list[Tensor], others: list[Tensor]) -> None:
    assert len(ones) == len(others) and all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def test_guarded_steps_are_the_very_steps_of_an_unguarded_optimizer() -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    steps = NonfiniteGuard(watched, watched_optimizer)
    for step in range(5):
        take_step(model, optimizer, images(step))
        take_step(watched, watched_optimizer, images(step), steps)
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))


@pytest.mark.parametrize("last", [float("nan"), float("inf")])
@pytest.mark.parametrize("bad", [{0}, {2}, {1, 2, 4}])
def test_step_with_a_gradient_that_is_not_finite_is_as_if_not_taken(bad: set[int], last: float) -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    steps = NonfiniteGuard(watched, watched_optimizer)
    for step in range(5):
        take_step(watched, watched_optimizer, images(step, last if step in bad else 1.0), steps)
        if step not in bad:
            take_step(model, optimizer, images(step))
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))
    assert (int(steps.skipped), int(steps.streak)) == (len(bad), int(4 in bad))


def test_counts_and_statistics_come_back() -> None:
    model, optimizer = network()
    steps = NonfiniteGuard(model, optimizer)
    take_step(model, optimizer, images(0), steps)
    take_step(model, optimizer, images(1, float("nan")), steps)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), steps.state_dict()))
    again, again_optimizer = network()
    resumed = NonfiniteGuard(again, again_optimizer)
    again.load_state_dict(saved[0])
    again_optimizer.load_state_dict(saved[1])
    resumed.load_state_dict(saved[2])
    take_step(again, again_optimizer, images(2, float("nan")), resumed)
    assert_equal(everything(again, again_optimizer), everything(model, optimizer))
    assert (int(resumed.skipped), int(resumed.streak)) == (2, 2)


def take_scaled_step(model: nn.Module, guard: NonfiniteGuard, scaler: GradScaler, batch: Tensor) -> None:
    scaler.scale(model(batch).square().mean()).backward()
    guard.step(scaler)
    model.zero_grad()


def test_scaled_steps_are_the_very_steps_without_a_scale() -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    steps = NonfiniteGuard(watched, watched_optimizer)
    scaler = GradScaler("cpu", init_scale=2.0**16)
    for step in range(5):
        take_step(model, optimizer, images(step))
        take_scaled_step(watched, steps, scaler, images(step))
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))


def test_steps_that_find_the_scale_change_nothing_and_are_not_ill() -> None:
    (model, optimizer), (watched, watched_optimizer) = network(), network()
    steps = NonfiniteGuard(watched, watched_optimizer)
    for parameter in watched.parameters():  # more than float16 holds
        parameter.register_hook(lambda gradient: torch.where(gradient.abs() > 65504, torch.inf, gradient))
    scaler = GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
    for step in range(4):
        take_scaled_step(watched, steps, scaler, images(step))
        if step > 0:
            take_step(model, optimizer, images(step))
    assert scaler.get_scale() == 2.0**10
    assert_equal(everything(model, optimizer), everything(watched, watched_optimizer))
    assert (int(steps.skipped), int(steps.streak)) == (0, 0)


def test_step_whose_forward_pass_is_not_finite_is_ill_at_any_scale() -> None:
    model, optimizer = network()
    steps, scaler = NonfiniteGuard(model, optimizer), GradScaler("cpu", init_scale=2.0**16)
    before = everything(model, optimizer)
    for step in range(3):
        take_scaled_step(model, steps, scaler, images(step, float("inf")))
    assert_equal(everything(model, optimizer), before)
    assert (int(steps.skipped), int(steps.streak), scaler.get_scale()) == (3, 3, 2.0**13)


def test_gradient_that_no_scale_makes_finite_is_ill() -> None:
    model, optimizer = network()
    steps, scaler = NonfiniteGuard(model, optimizer), GradScaler("cpu", init_scale=4.0)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    for step in range(5):  # at 4, 2, 1, ½ and ¼
        take_scaled_step(model, steps, scaler, images(step))
    assert (int(steps.skipped), int(steps.streak)) == (3, 3)


def test_scaled_step_whose_gradients_only_overflow_together_is_skipped_by_guard_and_scaler_alike() -> None:
    model, optimizer = network()
    steps, scaler = NonfiniteGuard(model, optimizer), GradScaler("cpu", init_scale=1.0)
    before = everything(model, optimizer)
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, 3e38))  # finite, and twice it is not
    take_scaled_step(model, steps, scaler, images(0))
    assert_equal(everything(model, optimizer), before)
    assert (int(steps.skipped), scaler.get_scale()) == (1, 0.5)
