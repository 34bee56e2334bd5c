import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from simsiam.kernels.batch_norm_relu import batch_norm_relu, update_running_statistics


def activations(shape: tuple[int, ...] = (6, 5, 3, 2), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 2 + torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))


def fused(norm: nn.BatchNorm2d, x: Tensor, residual: Tensor | None = None, views: int = 1) -> Tensor:
    return batch_norm_relu(
        x,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        residual,
        views=views,
        training=norm.training,
        momentum=norm.momentum or 0.1,
        eps=norm.eps,
    )


@pytest.mark.parametrize("with_residual", [False, True])
def test_one_pass_over_two_views_is_two_passes_of_batch_norm_sum_and_relu(with_residual: bool) -> None:
    together, apart = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    for step in range(2):
        x, residual = activations(seed=step), activations(seed=9) - 3 if with_residual else None
        got = fused(together, x, residual, views=2)
        expected = torch.cat([apart(view) for view in x.chunk(2)])
        torch.testing.assert_close(got, functional.relu(expected if residual is None else expected + residual))
    torch.testing.assert_close(together.running_mean, apart.running_mean)
    torch.testing.assert_close(together.running_var, apart.running_var)


def test_evaluation_normalises_by_running_statistics_and_leaves_them() -> None:
    norm = nn.BatchNorm2d(5).eval()
    assert norm.running_mean is not None
    norm.running_mean.uniform_()
    before = norm.running_mean.clone()
    x = activations((7, 5, 3, 2))
    torch.testing.assert_close(fused(norm, x, x, views=2), functional.relu(norm(x) + x))
    assert torch.equal(norm.running_mean, before)


def test_running_statistics_follow_each_view_in_turn_with_the_unbiased_variance() -> None:
    norm = nn.BatchNorm1d(3, momentum=0.3)
    views = [activations((4, 3), seed=view) for view in range(2)]
    for view in views:
        norm(view)
    mean, variance = torch.zeros(3), torch.ones(3)
    stacked = torch.stack(views)
    update_running_statistics(mean, variance, stacked.mean(1), stacked.var(1, correction=0), 4, 0.3)
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(variance, norm.running_var)


def test_what_does_not_fit_is_named() -> None:
    norm = nn.BatchNorm2d(5)
    with pytest.raises(ValueError, match=r"\(7, 5, 3, 2\); give \(2·n, channels\)"):
        fused(norm, activations((7, 5, 3, 2)), views=2)
    with pytest.raises(ValueError, match=r"\(2, 5, 1, 1\); a variance needs two values"):
        fused(norm, activations((2, 5, 1, 1)), views=2)
    with pytest.raises(ValueError, match=r"residual is torch\.float16 \(6, 5, 3, 2\); give torch\.float32"):
        fused(norm, activations(), activations().half())


def test_statistics_are_not_shared_where_there_is_no_kernel() -> None:
    with pytest.raises(ValueError, match=r"torch\.float64 on cpu, where there is no kernel that shares"):
        batch_norm_relu(torch.zeros(4, 3, dtype=torch.float64), None, None, None, None, world_size=2)
