import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from simsiam.pipeline.errors import RunError
from simsiam.train.config import HealthConfig
from simsiam.train.health import Health, Unhealthy
from simsiam.train.nonfinite_guard import NonfiniteGuard

HEALTHY = 0.1
UNSCALED = GradScaler("cpu", enabled=False)


def images(step: int, last: float = 1.0) -> Tensor:
    batch = torch.rand(6, 4, generator=torch.Generator().manual_seed(step))
    batch[-1, -1] *= last
    return batch


def take_step(model: nn.Module, guard: NonfiniteGuard, batch: Tensor, scaler: GradScaler = UNSCALED) -> None:
    scaler.scale(model(batch).square().mean()).backward()
    guard.step(scaler)
    model.zero_grad()


def watched_by(**settings: Any) -> tuple[Health, nn.Module, NonfiniteGuard]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    guard = NonfiniteGuard(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True))
    return Health(HealthConfig(**settings), guard, HEALTHY), model, guard


def look(health: Health, step: int, loss: float = -0.5, output_std: float = HEALTHY) -> int:
    return health.check_output(step, loss, output_std)


def test_skipped_steps_are_told_once() -> None:
    health, model, guard = watched_by()
    for step in range(2):
        take_step(model, guard, images(step, float("nan")))
    with pytest.warns(UserWarning, match=r"Steps skipped before step 5, .*: 2 \(2 in all\)"):
        assert health.check_steps(5) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert health.check_steps(10) == 2


def test_run_stops_when_no_gradient_is_finite_any_more() -> None:
    health, model, guard = watched_by()
    for step in range(10):
        take_step(model, guard, images(step, float("nan")))
    with pytest.raises(RunError, match="No gradient was finite in the 10 steps before step 12"):
        health.check_steps(12)


def test_run_stops_at_one_gradient_if_told_so() -> None:
    health, model, guard = watched_by(on_nonfinite="stop")
    assert health.check_steps(0) == 0
    take_step(model, guard, images(0, float("nan")))
    with pytest.raises(RunError, match="A gradient was not finite in one of the last steps before step 1;"):
        health.check_steps(1)


def test_run_that_stops_at_one_gradient_can_be_saved_however_many_followed() -> None:
    health, model, guard = watched_by(on_nonfinite="stop")
    for step in range(12):
        take_step(model, guard, images(step, float("nan")))
    with pytest.raises(Unhealthy, match="on_nonfinite skip"):
        health.check_steps(12)
    assert health.check_steps(12) == 12


def test_step_that_only_finds_the_scale_counts_as_skipped_for_its_line() -> None:
    health, model, guard = watched_by()
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, torch.nan))
    assert not health.last_step_was_skipped()
    take_step(model, guard, images(0), GradScaler("cpu", init_scale=2.0**16))
    assert health.last_step_was_skipped() and health.check_steps(1) == 0


@pytest.mark.parametrize("sign", [{"output_std": 0.19 * HEALTHY}, {"loss": -0.9995}, {"output_std": float("nan")}])
def test_collapse_is_told_once_when_it_has_lasted(sign: dict[str, float]) -> None:
    health, *_ = watched_by(collapse_steps=100)
    assert look(health, 50) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(health, 100, **sign) == 50
    with pytest.warns(UserWarning, match="The output has collapsed: for 100 steps .*step 150: spread"):
        look(health, 150, **sign)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(health, 200, **sign) == 150
        assert look(health, 250) == 0
        assert look(health, 300, **sign) == 50


def test_collapse_ends_the_run_or_is_let_be_as_told() -> None:
    stopping, *_ = watched_by(collapse_steps=100, on_collapse="stop")
    with pytest.raises(RunError, match="The output has collapsed"):
        look(stopping, 100, output_std=0.0)
    ignoring, *_ = watched_by(collapse_steps=100, on_collapse="ignore")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert look(ignoring, 100, output_std=0.0) == 100


def test_collapse_is_counted_on_after_a_resume() -> None:
    first, *_ = watched_by(collapse_steps=100)
    look(first, 50)
    second, *_ = watched_by(collapse_steps=100)
    second.load_state_dict(first.state_dict())
    assert look(second, 100, output_std=0.0) == 50
