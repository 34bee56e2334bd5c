import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from simsiam.model.activation_checkpointing import is_recomputed, recompute_blocks
from simsiam.model.batch_norm import separate_views
from simsiam.model.fused_batch_norm import fuse_batch_norm
from simsiam.model.resnet import ResNet, resnet


def two_alike(arch: str, fused: bool = False) -> tuple[ResNet, ResNet]:
    """Return an encoder, and the same one with its blocks recomputed."""
    torch.manual_seed(0)
    plain = resnet(arch, "cifar", zero_init_residual=False).to(memory_format=torch.channels_last).train()
    separate_views(plain, 2)
    if fused:
        fuse_batch_norm(plain)
    again = copy.deepcopy(plain)
    recompute_blocks(again)
    return plain, again


def train(encoder: nn.Module, precision: torch.dtype | None = None, steps: int = 3) -> list[Tensor]:
    """Take some steps; return losses, gradients and the state after each."""
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.05, momentum=0.9)
    seen = []
    for step in range(steps):
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            features = encoder(images.contiguous(memory_format=torch.channels_last))
        loss = (features.float() * torch.linspace(-1, 1, features.numel()).view_as(features)).mean()
        loss.backward()
        seen += [loss.detach(), *(parameter.grad for parameter in encoder.parameters())]
        optimizer.step()
        optimizer.zero_grad()
        seen += [value.clone() for value in encoder.state_dict().values()]
    return seen


@pytest.mark.parametrize(
    ("arch", "fused", "precision"),
    [
        ("resnet18", False, None),
        ("resnet50", False, None),
        ("resnet18", True, None),
        ("resnet18", False, torch.bfloat16),
    ],
)
def test_losses_gradients_weights_and_running_statistics_are_the_same_bits(
    arch: str, fused: bool, precision: torch.dtype | None
) -> None:
    plain, again = two_alike(arch, fused)
    for expected, value in zip(train(plain, precision), train(again, precision), strict=True):
        assert torch.equal(value, expected)
    assert int(again.state_dict()["layer1.0.bn1.num_batches_tracked"]) == 3 * 2  # of two views, in three steps


def bytes_kept(run: Callable[[], Tensor], weights: nn.Module) -> int:
    """Return the bytes of activations that `run` keeps for its backward pass."""
    known = {parameter.untyped_storage().data_ptr() for parameter in weights.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    assert output.requires_grad  # and so keeps all of it until here
    return sum(kept.values())


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_a_third_of_the_memory_is_kept_at_most(arch: str) -> None:
    images = torch.randn(8, 3, 32, 32)
    plain, again = (bytes_kept(lambda: encoder(images), encoder) for encoder in two_alike(arch))  # noqa: B023
    assert 0 < again < plain / 3


def test_blocks_run_once_where_no_gradient_is_wanted() -> None:
    plain, again = two_alike("resnet18")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), plain.eval()(images))
    # A gradient through an encoder that is evaluated reads its running statistics, in both passes.
    gradients = []
    for encoder in (plain, again):
        leaf = images.clone().requires_grad_()
        encoder(leaf).square().mean().backward()
        gradients.append(leaf.grad)
    assert torch.equal(gradients[0], gradients[1])


def test_state_keeps_its_names() -> None:
    plain, again = two_alike("resnet18")
    assert list(again.state_dict()) == list(plain.state_dict())
    assert is_recomputed(nn.Sequential(again)) and not is_recomputed(plain)
