"""Cases of `simsiam bench kernels`: each operation with its reference, torch.compile of that, and baselines."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from simsiam.kernels.augment import augment_views, augment_views_reference
from simsiam.kernels.augment_contract import PhotometricDraws
from simsiam.kernels.batch_norm_relu import batch_norm_relu, batch_norm_relu_reference
from simsiam.kernels.negative_cosine import negative_cosine, negative_cosine_reference
from simsiam.pipeline.augmentation import Augmentation, draw
from simsiam.train.bench.kernel_baselines import by_kornia, by_torchvision
from simsiam.train.bench.kernels import Case, Outputs, Way

# Activations of ResNet-50 at 224 px, bottom to top: channels, height and width, residual.
_RESNET50 = ((64, 112, False), (64, 56, False), (256, 56, True), (512, 28, True), (1024, 14, True), (2048, 7, True))


def negative_cosine_cases(device: torch.device) -> Iterator[Case]:
    """Yield the loss and its gradients, of the projections of one batch in the paper's width."""
    rows = 512 if device.type == "cuda" else 64
    for dtype in _dtypes(device):
        yield _negative_cosine_case(rows, 2048, dtype, device)


def _negative_cosine_case(rows: int, features: int, dtype: torch.dtype, device: torch.device) -> Case:
    generator = torch.Generator(device).manual_seed(0)
    inputs = [torch.randn((rows, features), generator=generator, device=device).to(dtype) for _ in range(4)]

    def way(loss: Callable[..., Tensor], convert: Callable[[Tensor], Tensor] = Tensor.clone) -> Callable[[], Outputs]:
        tensors = [convert(each).requires_grad_(number < 2) for number, each in enumerate(inputs)]

        def run() -> Outputs:
            value = loss(*tensors)
            return value, *torch.autograd.grad(value, tensors[:2])

        return run

    return Case(
        "negative_cosine",
        _describe((rows, features), dtype),
        way(negative_cosine_reference, Tensor.float),
        [
            Way("simsiam", way(negative_cosine)),
            Way("reference", way(negative_cosine_reference)),
            Way("compiled", way(_compiled(negative_cosine_reference))),
        ],
        # Forward reads four matrices; backward reads them again and writes two.
        bytes_moved=10 * rows * features * dtype.itemsize,
        tolerance=_rounding(dtype),
    )


def augment_views_cases(device: torch.device) -> Iterator[Case]:
    """Yield two views of each image at 224 px, drawn as in SimSiam (arXiv 2011.10566, App. A)."""
    count = 256 if device.type == "cuda" else 8
    for dtype in _dtypes(device):
        yield _augment_views_case(count, 224, dtype, device)


def _augment_views_case(count: int, size: int, dtype: torch.dtype, device: torch.device) -> Case:
    generator = torch.Generator(device).manual_seed(0)
    shape = (count, 2, size, size, 3)
    pixels = torch.randint(0, 256, shape, generator=generator, device=device, dtype=torch.uint8)
    drawn = draw(Augmentation(), 0, 0, np.arange(count), np.full((count, 2), size, np.int32), views=2)
    draws = PhotometricDraws(*(torch.from_numpy(getattr(drawn, name)).to(device) for name in PhotometricDraws._fields))

    def way(augment: Callable[..., Tensor], dtype: torch.dtype = dtype) -> Callable[[], Outputs]:
        # Left in [0, 1], so that an error is a share of the brightest value.
        options = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "dtype": dtype, "blur_kernel": 23}
        return lambda: [augment(pixels, draws, **options)]

    ways = [
        Way("simsiam", way(augment_views)),
        Way("reference", way(augment_views_reference)),
        # The number of images that an operation concerns differs from batch to batch: its graph must allow for that.
        Way("compiled", way(torch.compile(augment_views_reference))),
        Way("torchvision", by_torchvision(pixels, draws, dtype)),
    ]
    if importlib.util.find_spec("kornia"):
        ways.append(Way("kornia", by_kornia(pixels, dtype), checked=False))
    return Case(
        "augment_views",
        _describe(tuple(pixels.shape), dtype),
        way(augment_views_reference, torch.float32),
        ways,
        # Crops are read once, views written once.
        bytes_moved=pixels.numel() * (1 + dtype.itemsize),
        tolerance=1 / 255 + torch.finfo(dtype).eps / 2,
    )


def batch_norm_relu_cases(device: torch.device) -> Iterator[Case]:
    """Yield layers of ResNet-50 on two views, forward and backward, without running statistics."""
    count, layers = (512, _RESNET50) if device.type == "cuda" else (4, _RESNET50[2:4])
    for channels, size, with_residual in layers:
        yield _batch_norm_relu_case((count, channels, size, size), with_residual, _dtypes(device)[0], device)


def _batch_norm_relu_case(
    shape: tuple[int, int, int, int], with_residual: bool, dtype: torch.dtype, device: torch.device
) -> Case:
    generator = torch.Generator(device).manual_seed(0)

    def normal() -> Tensor:
        values = torch.randn(shape, generator=generator, device=device, dtype=dtype)
        return values.contiguous(memory_format=torch.channels_last)

    gradient = normal()
    inputs = [normal(), *(torch.rand(shape[1], generator=generator, device=device) for _ in range(2))]
    inputs += [normal()] if with_residual else []

    def way(operate: Callable[..., Tensor], cast: Callable[[Tensor], Tensor] = Tensor.detach) -> Callable[[], Outputs]:
        def run() -> Outputs:
            tensors = [cast(each).requires_grad_() for each in inputs]
            output = operate(*tensors)
            return output, *torch.autograd.grad(output, tensors, cast(gradient))

        return run

    return Case(
        "batch_norm_relu",
        _describe(shape, dtype) + (" + residual" if with_residual else ""),
        way(_batch_norm_reference, Tensor.float),
        [
            Way("simsiam", way(_batch_norm_of_two_views)),
            Way("reference", way(_batch_norm_reference)),
            Way("compiled", way(_compiled(_batch_norm_reference))),
        ],
        # Forward reads x for the statistics, reads it again, and writes. Backward reads x and the gradient for the
        # sums, reads both again, and writes. A residual is read; backward, the output is read to find where ReLU cut,
        # and the residual's gradient is written, which is then read instead of the gradient.
        bytes_moved=(11 if with_residual else 8) * gradient.numel() * dtype.itemsize,
        tolerance=2 * _rounding(dtype),
        # Where a sum is close to 0, rounding decides whether its whole gradient passes.
        averaged=True,
    )


OPERATIONS: dict[str, Callable[[torch.device], Iterator[Case]]] = {
    "negative_cosine": negative_cosine_cases,
    "augment_views": augment_views_cases,
    "batch_norm_relu": batch_norm_relu_cases,
}
"""The cases of each operation, by its name; a new kernel is one line here."""


def _dtypes(device: torch.device) -> Sequence[torch.dtype]:
    return (torch.bfloat16, torch.float32) if device.type == "cuda" else (torch.float32,)


def _rounding(dtype: torch.dtype) -> float:
    return max(torch.finfo(dtype).eps, 1e-5)


def _compiled(function: Callable) -> Callable:
    # Compiled for this shape, as in training; the code compiled for the previous case would make it general.
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def _describe(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"


def _batch_norm_of_two_views(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    return batch_norm_relu(x, weight, bias, None, None, residual, views=2)


def _batch_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    return batch_norm_relu_reference(x, weight, bias, None, None, residual, views=2)
