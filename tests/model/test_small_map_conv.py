import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
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
    gradient = torch.randn(plain(images).shape)
    assert quick(images).is_contiguous(memory_format=torch.channels_last)
    exact = results(plain, images, gradient, Tensor.double)
    largest = results(plain, images, gradient, lambda values: values.double().abs())  # all terms of one sign
    ours = results(quick, images, gradient, Tensor.float)
    for got, expected, magnitude in zip(ours, exact, largest, strict=True):
        # So many terms at most, each rounded twice: as a product and in the sum (Higham 2002, section 3.1).
        terms = max(plain.weight[0].numel(), plain.weight[:, 0].numel(), gradient[:, 0].numel())
        rounding = terms * torch.finfo(torch.float32).eps * magnitude
        assert ((got.double() - expected).abs() <= rounding).all()


def results(conv: nn.Conv2d, images: Tensor, gradient: Tensor, convert: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Return output and gradients of a convolution whose numbers were all converted."""
    conv = copy.deepcopy(conv)
    conv.weight = nn.Parameter(convert(conv.weight.detach()))
    x = convert(images).requires_grad_()
    y = conv(x)
    y.backward(convert(gradient))
    assert x.grad is not None and conv.weight.grad is not None
    return [y.detach(), x.grad, conv.weight.grad]


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
    with torch.no_grad():
        exact = copy.deepcopy(encoder).double()(images.double())
    counts, off = [], []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            features = encoder(images)
        off.append((features.double() - exact).norm())
        counts.append(counter.get_total_flops())
        speed_up_small_maps(encoder)
    assert off[1] <= 10 * off[0]  # from float64; the plain operations round as well
    assert off[0] < 1e-5 * exact.norm()
    assert counts[1] < 0.85 * counts[0]  # nothing outside of the map is multiplied
    assert list(encoder.state_dict()) == list(resnet("resnet18").state_dict())
