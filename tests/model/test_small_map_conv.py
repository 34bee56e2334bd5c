import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from simsiam.model import small_map_conv
from simsiam.model.resnet import resnet
from simsiam.model.small_map_conv import SmallMapConv2d, speed_up_small_maps


def pair(*arguments, **options) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution and one of the same weights that was sped up."""
    torch.manual_seed(0)
    plain = nn.Conv2d(*arguments, bias=False, **options).to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    speed_up_small_maps(quick)
    assert type(quick) is SmallMapConv2d
    return plain, quick


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (2, 3), (4, 4), (5, 3)])
@pytest.mark.parametrize("kernel", [1, 2, 3, (3, 5), 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1, (1, 2), 3])
def test_it_is_the_convolution_forward_and_backward(size, kernel, stride, padding, monkeypatch) -> None:
    monkeypatch.setattr(small_map_conv, "CHANNELS_A_PIXEL", 0)
    plain, quick = pair(3, 4, kernel, stride=stride, padding=padding)
    images = torch.randn(2, 3, *size).contiguous(memory_format=torch.channels_last)
    if any(side + 2 * pad < k for side, k, pad in zip(size, plain.kernel_size, plain.padding, strict=True)):
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            plain(images)
        return
    results = []
    for conv in (plain, quick):
        x = images.clone().requires_grad_()
        y = conv(x)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        assert y.is_contiguous(memory_format=torch.channels_last)
        results.append((y, x.grad, conv.weight.grad))
    for got, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_small_maps_of_many_channels_alone_are_multiplied_out(monkeypatch) -> None:
    seen = []
    real = small_map_conv._taps
    monkeypatch.setattr(small_map_conv, "_taps", lambda size, *rest: seen.append(tuple(size)) or real(size, *rest))
    _, quick = pair(32, 48, 3, padding=1)
    for side in (1, 2):  # 32 channels are enough for 2 pixels
        quick(torch.randn(2, 32, side, 1))
    with torch.autocast("cpu", torch.bfloat16):
        quick(torch.randn(2, 32, 1, 1))
    quick(torch.randn(2, 32, 3, 1))
    quick.double()(torch.randn(2, 32, 1, 1).double())
    assert seen == [(1, 1), (2, 1)]


def test_what_is_no_plain_convolution_stays_what_it_is() -> None:
    others = nn.ModuleList(
        [
            nn.Conv2d(4, 4, 3),
            nn.Conv2d(4, 4, 3, bias=False, groups=2),
            nn.Conv2d(4, 4, 3, bias=False, dilation=2),
            nn.Conv2d(4, 4, 3, bias=False, padding="same"),
            nn.Conv2d(4, 4, 3, bias=False, padding=1, padding_mode="reflect"),
            nn.Linear(4, 4),
        ]
    )
    before = [type(module) for module in others]
    speed_up_small_maps(others)
    assert [type(module) for module in others] == before


def test_an_encoder_gives_the_same_features_in_fewer_operations() -> None:
    torch.manual_seed(0)
    encoder = resnet("resnet18").to(memory_format=torch.channels_last).eval()
    images = torch.randn(2, 3, 64, 64)
    counts, features = [], []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            features.append(encoder(images))
        counts.append(counter.get_total_flops())
        speed_up_small_maps(encoder)
    torch.testing.assert_close(*features)
    assert counts[1] < 0.85 * counts[0]  # nothing outside of the map is multiplied
    assert list(encoder.state_dict()) == list(resnet("resnet18").state_dict())
