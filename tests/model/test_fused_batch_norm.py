import copy

import pytest
import torch
from torch import nn

from simsiam.model.fused_batch_norm import FusedBatchNorm2d, fuse_batch_norm
from simsiam.model.resnet import resnet


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_a_fused_encoder_is_the_plain_one(arch: str) -> None:
    torch.manual_seed(0)
    # In float64, so that a real difference can't hide in what many batch norms make of float32 rounding.
    plain = resnet(arch, "cifar", zero_init_residual=False).double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter, 0.5, 0.1) if parameter.ndim == 1 else None
    fused = copy.deepcopy(plain)
    fuse_batch_norm(fused)
    assert fused.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    got, expected = fused(images), plain(images)
    torch.testing.assert_close(got, expected)
    got.square().sum().backward()
    expected.square().sum().backward()
    for (name, left), right in zip(fused.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-6, atol=1e-8, msg=name)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(fused.state_dict()[name], value, msg=name)
    torch.testing.assert_close(fused.eval()(images[:3]), plain.eval()(images[:3]))
    torch.testing.assert_close(fused.taps(images)["feature1"], plain.taps(images)["feature1"])


def test_every_batch_norm_is_fused_and_a_shortcuts_has_no_relu() -> None:
    encoder = resnet("resnet50")
    fuse_batch_norm(encoder)
    norms = {name: module for name, module in encoder.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert len(norms) == 53
    for name, norm in norms.items():
        assert isinstance(norm, FusedBatchNorm2d)
        assert norm.relu == ("downsample" not in name), name


def test_cumulative_running_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="give momentum a number"):
        FusedBatchNorm2d(3, momentum=None)(torch.zeros(4, 3, 2, 2))
