import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from simsiam.model.batch_norm import PerViewBatchNorm1d, PerViewBatchNorm2d
from simsiam.model.resnet import resnet
from simsiam.model.simsiam import SimSiam

LAYERS = [
    pytest.param(nn.BatchNorm2d, PerViewBatchNorm2d, (5, 4, 3), {}, id="2d"),
    pytest.param(nn.BatchNorm1d, PerViewBatchNorm1d, (5,), {}, id="1d"),
    pytest.param(nn.BatchNorm1d, PerViewBatchNorm1d, (5,), {"affine": False}, id="1d without affine"),
    pytest.param(nn.BatchNorm2d, PerViewBatchNorm2d, (5, 4, 3), {"momentum": None}, id="2d cumulative"),
    pytest.param(nn.BatchNorm2d, PerViewBatchNorm2d, (5, 4, 3), {"momentum": 0.3, "eps": 0.1}, id="2d momentum, eps"),
]


def batch(views: int, rows: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return views of clearly different mean and spread, view-major."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [torch.randn(rows, *shape, generator=generator) * (1 + i) + 3 * i for i in range(views)]
    return torch.cat(blocks)


@pytest.mark.parametrize("views", [1, 2, 3])
@pytest.mark.parametrize(("plain_class", "per_view_class", "shape", "options"), LAYERS)
def test_one_pass_over_all_views_equals_a_plain_pass_over_each(
    plain_class: type, per_view_class: type, shape: tuple[int, ...], options: dict[str, object], views: int
) -> None:
    # In float64, so that a real difference can't hide in rounding.
    plain = plain_class(5, **options).double()
    per_view = per_view_class(5, views, **options).double()
    if plain.affine:
        with torch.no_grad():
            plain.weight.uniform_(0.5, 2)
            plain.bias.uniform_(-1, 1)
    per_view.load_state_dict(plain.state_dict(), strict=True)
    for step in range(3):
        together = batch(views, 6, shape, seed=step).double().requires_grad_()
        apart = [block.detach().clone().requires_grad_() for block in together.chunk(views)]
        pull = torch.randn(together.shape, generator=torch.Generator().manual_seed(99)).double()
        got, expected = per_view(together), torch.cat([plain(block) for block in apart])
        torch.testing.assert_close(got, expected)
        (got * pull).sum().backward()
        (expected * pull).sum().backward()
        torch.testing.assert_close(together.grad, torch.cat([block.grad for block in apart]))  # type: ignore[misc]
    for (name, got), (_, expected) in zip(per_view.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, msg=f"gradient of {name}")
    assert per_view.state_dict().keys() == plain.state_dict().keys()
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(per_view.state_dict()[name], expected, msg=name)
    assert per_view.num_batches_tracked == 3 * views
    per_view.eval()
    plain.eval()
    odd = batch(1, 7, shape, seed=9).double()
    torch.testing.assert_close(per_view(odd), plain(odd))


def test_statistics_of_one_view_do_not_reach_the_other() -> None:
    layer = PerViewBatchNorm1d(3)
    views = batch(2, 8, (3,))
    changed = views.clone()
    changed[8:] *= 5
    assert torch.equal(layer(views)[:8], layer(changed)[:8])


def test_channels_last_stays_channels_last_forward_and_backward() -> None:
    layer = PerViewBatchNorm2d(5)
    images = batch(2, 3, (5, 4, 3)).contiguous(memory_format=torch.channels_last).requires_grad_()
    normalised = layer(images)
    normalised.backward(torch.randn_like(normalised))
    assert normalised.is_contiguous(memory_format=torch.channels_last)
    assert images.grad is not None
    assert images.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layer", [PerViewBatchNorm1d(3), PerViewBatchNorm2d(3)])
def test_a_batch_that_does_not_divide_into_views_is_refused(layer: nn.Module) -> None:
    shape = (3,) if isinstance(layer, PerViewBatchNorm1d) else (3, 2, 2)
    with pytest.raises(ValueError, match="batch of 7 does not divide into 2 views"):
        layer(torch.zeros(7, *shape))


def test_fewer_than_one_view_is_refused() -> None:
    with pytest.raises(ValueError, match="views is 0"):
        PerViewBatchNorm2d(3, 0)


@pytest.mark.parametrize("training", [True, False])
def test_compiles_without_a_graph_break(training: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        PerViewBatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        PerViewBatchNorm1d(64, affine=False),
    )
    model.double().train(training)
    eager = copy.deepcopy(model)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = batch(2, 4, (3, 6, 6)).double()
    got, expected = compiled(images), eager(images)
    torch.testing.assert_close(got, expected)
    got.square().sum().backward()
    expected.square().sum().backward()
    for left, right in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad)
    for left, right in zip(model.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(left, right)


def cosine_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    towards_2 = functional.cosine_similarity(p1, z2, dim=1).mean()
    towards_1 = functional.cosine_similarity(p2, z1, dim=1).mean()
    return -(towards_2 + towards_1) / 2


def test_simsiam_trained_in_one_pass_equals_simsiam_trained_in_two() -> None:
    # In float64, so that a real difference can't hide in what many batch norms make of float32 rounding.
    torch.manual_seed(0)
    heads = {"projection_dim": 32, "prediction_hidden": 16, "projector_layers": 2}
    joined = SimSiam(resnet("resnet18", "cifar"), **heads).double()
    plain = SimSiam(resnet("resnet18", "cifar"), **heads, views=1).double()
    # Leave the start, where every residual branch is multiplied by zero.
    for parameter in joined.parameters():
        nn.init.normal_(parameter, 0.5, 0.1) if parameter.ndim == 1 else None
    plain.load_state_dict(joined.state_dict(), strict=True)
    optimizers = [torch.optim.SGD(model.parameters(), 0.05, momentum=0.9) for model in (joined, plain)]
    for step in range(2):
        images = batch(2, 4, (3, 8, 8), seed=step).double()
        one_pass = joined(images)
        z1, z2 = (plain.projector(plain.encoder(view)) for view in images.chunk(2))
        two_passes = (plain.predictor(z1), plain.predictor(z2), z1.detach(), z2.detach())
        for got, expected in zip(one_pass, two_passes, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)
        for optimizer, output in zip(optimizers, (one_pass, two_passes), strict=True):
            optimizer.zero_grad()
            cosine_loss(*output).backward()
        for (name, left), right in zip(joined.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-6, atol=1e-9, msg=f"step {step} {name}")
        for optimizer in optimizers:
            optimizer.step()
    for name, expected in plain.state_dict().items():
        torch.testing.assert_close(joined.state_dict()[name], expected, rtol=1e-6, atol=1e-8, msg=name)
