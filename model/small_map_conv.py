"""Convolutions of small feature maps by matrix products: quicker on a CPU where maps are a few pixels wide.

On a CPU, oneDNN computes a convolution row by row of its output, and multiplies what lies outside of the map as well.
Where the map is 2 × 2 pixels, as in the last stage of a ResNet at 64 px, it takes 5.6 times as long as a matrix product
for each offset in the kernel with the pixels that it meets (2-core Xeon with AVX-512, forward and backward).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CHANNELS_A_PIXEL = 16
"""With fewer channels, in or out, for each pixel of the output oneDNN is quicker (same machine, 128 images)."""


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` without bias, groups and dilation; its state has the same names, its results differ by rounding."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (n, in_channels, height, width), small float32 maps on a CPU by matrix products."""
        sides = zip(input.shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        height, width = (_output_side(*side) for side in sides)
        is_small = height * width * CHANNELS_A_PIXEL <= min(self.in_channels, self.out_channels)
        float32_on_cpu = input.device.type == "cpu" and input.dtype == torch.float32
        if not is_small or not float32_on_cpu or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        return _TapByTap.apply(input, self.weight, self.stride, self.padding)


def speed_up_small_maps(network: nn.Module) -> None:
    """Have the convolutions of `network` compute small maps by matrix products, from now on, where they are quicker."""
    for module in network.modules():
        plain = type(module) is nn.Conv2d and module.bias is None and module.padding_mode == "zeros"
        if plain and module.groups == 1 and module.dilation == (1, 1) and not isinstance(module.padding, str):
            module.__class__ = SmallMapConv2d


class _Tap(NamedTuple):
    """One offset in a kernel, and the pixels that it reads and adds to."""

    at: tuple[slice | int, ...]
    """In the weight (out, in, height, width)."""
    seen: tuple[slice, ...]
    """In the input (n, height, width, in): the pixels that it is laid upon, none of them padding."""
    reached: tuple[slice, ...]
    """In the output (n, height, width, out): the pixels that these contribute to."""


class _TapByTap(torch.autograd.Function):
    """Convolution as a sum over the kernel's offsets, each a product (pixels, in) × (in, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        sides = zip(x.shape[2:], weight.shape[2:], stride, padding, strict=True)
        output = x.new_zeros(x.shape[0], *(_output_side(*side) for side in sides), weight.shape[0])
        pixels = x.permute(0, 2, 3, 1)
        for tap in _taps(x.shape[2:], weight.shape[2:], stride, padding):
            reached = output[tap.reached]
            reached += (_rows(pixels[tap.seen]) @ weight[tap.at].T).view(reached.shape)
        return output.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        gradient, pixels = gradients[0].permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        x_gradient = torch.zeros_like(pixels) if ctx.needs_input_grad[0] else None
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for tap in _taps(x.shape[2:], weight.shape[2:], ctx.stride, ctx.padding):
            reached = _rows(gradient[tap.reached])
            if weight_gradient is not None:
                weight_gradient[tap.at] = reached.T @ _rows(pixels[tap.seen])
            if x_gradient is not None:
                seen = x_gradient[tap.seen]
                seen += (reached @ weight[tap.at]).view(seen.shape)
        return None if x_gradient is None else x_gradient.permute(0, 3, 1, 2), weight_gradient, None, None


def _taps(size: torch.Size, kernel: torch.Size, stride: tuple[int, int], padding: tuple[int, int]) -> Iterator[_Tap]:
    """Yield the offsets in a kernel that meet at least one pixel of a map of height and width `size`."""
    everything = slice(None)
    vertical, horizontal = map(_meetings, size, kernel, stride, padding)
    for i, (seen_rows, reached_rows) in vertical:
        for j, (seen_columns, reached_columns) in horizontal:
            yield _Tap(
                (everything, everything, i, j),
                (everything, seen_rows, seen_columns),
                (everything, reached_rows, reached_columns),
            )


def _meetings(side: int, kernel: int, stride: int, padding: int) -> list[tuple[int, tuple[slice, slice]]]:
    """Return for each offset in a kernel along one side: which pixels it is laid upon, for which of the output."""
    found = []
    for offset in range(kernel):
        # Output pixel o has this offset on input pixel o · stride + offset − padding.
        shift = offset - padding
        first = max(0, -(shift // stride))
        end = min(_output_side(side, kernel, stride, padding), (side - 1 - shift) // stride + 1)
        if first < end:
            seen = slice(first * stride + shift, (end - 1) * stride + shift + 1, stride)
            found.append((offset, (seen, slice(first, end))))
    return found


def _output_side(side: int, kernel: int, stride: int, padding: Any) -> int:
    return (side + 2 * padding - kernel) // stride + 1


def _rows(pixels: Tensor) -> Tensor:
    """(n, height, width, channels) → (n·height·width, channels)."""
    return pixels.reshape(-1, pixels.shape[-1])
