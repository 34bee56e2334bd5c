import pytest
import torch
from torch import Tensor

from simsiam.kernels.augment import augment_views_reference

pytestmark = pytest.mark.usefixtures("poisoned_memory")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def draws_of(count: int, views: int, seed: int) -> dict[str, Tensor]:
    """Draw so that every operation is on in some views and off in others, each coming first somewhere."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, views, *shape, generator=generator)

    neutral = torch.tensor([1.0, 1, 1, 0])
    jitter = neutral + (uniform(4) * 2 - 1) * torch.tensor([0.8, 0.8, 0.8, 0.5])
    return {
        "flip": uniform() < 0.5,
        "jitter": torch.where(uniform(1) < 0.8, jitter, neutral),
        "order": uniform(4).argsort(-1).to(torch.uint8),
        "gray": uniform() < 0.2,
        "sigma": torch.where(uniform() < 0.6, 0.1 + 2.4 * uniform(), 0.0),
        "solarize": uniform() < 0.3,
    }


def crops_of(count: int, views: int, size: int, seed: int) -> Tensor:
    """Return noise, saturated colours and grays: the corners of hue among them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, views, size, size, 3)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    pixels[:, :, : size // 3] = pixels[:, :, : size // 3] // 128 * 255
    pixels[:, :, size // 3 : size // 2] = pixels[:, :, size // 3 : size // 2, :, :1]
    return pixels


def both(
    pixels: Tensor,
    draws: dict[str, Tensor],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    blur_kernel: int = 23,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Return the kernels' views and the reference's, in float64."""
    from simsiam.kernels.augment_triton import augment_views_triton

    options = {"mean": mean, "std": std, "blur_kernel": blur_kernel}
    moved = {name: draw.to(device) for name, draw in draws.items()}
    got = augment_views_triton(pixels.to(device), **moved, **options, dtype=dtype)
    assert got.dtype == dtype and got.device.type == device.type
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected = augment_views_reference(pixels, **draws, **options, dtype=torch.float32)
    assert got.shape == expected.shape
    return got.cpu().double(), expected.double()


@pytest.mark.parametrize(("count", "views", "size"), [(16, 2, 17), (4, 3, 33), (1, 1, 5), (2, 2, 1), (3, 1, 2)])
def test_a_whole_chain_of_random_draws_is_the_references(
    count: int, views: int, size: int, device: torch.device
) -> None:
    got, expected = both(crops_of(count, views, size, 1), draws_of(count, views, 2), device, mean=MEAN, std=STD)
    assert (got - expected).abs().max() < 1e-4


@pytest.mark.parametrize("code", range(4), ids=["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_operation_alone_is_the_references(code: int, device: torch.device) -> None:
    pixels, draws = crops_of(6, 1, 12, code), draws_of(6, 1, code)
    for name in ("flip", "gray", "sigma", "solarize"):
        draws[name].zero_()
    amounts = draws["jitter"][..., code].clone()
    draws["jitter"][:] = torch.tensor([1.0, 1, 1, 0])
    draws["jitter"][..., code] = amounts
    got, expected = both(pixels, draws, device)
    assert (got - expected).abs().max() < 1e-5
    assert (expected - both(pixels, draws_of(6, 1, 99), device)[1]).abs().max() > 0.1


def test_neutral_draws_change_no_bit(device: torch.device) -> None:
    pixels, draws = crops_of(3, 1, 9, 0), draws_of(3, 1, 0)
    for name in ("flip", "gray", "sigma", "solarize"):
        draws[name].zero_()
    draws["jitter"][:] = torch.tensor([1.0, 1, 1, 0])
    got, expected = both(pixels, draws, device)
    assert (got - expected).abs().max() < 1e-6
    # Equal bytes stay equal numbers, whatever colour they are part of.
    assert got.unique().numel() == pixels.unique().numel()


@pytest.mark.parametrize(("size", "blur_kernel"), [(40, 23), (40, 5), (8, 23), (3, 23), (40, 1)])
def test_blur_is_the_references_up_to_the_mirrored_edges(size: int, blur_kernel: int, device: torch.device) -> None:
    pixels, draws = crops_of(3, 1, size, 3), draws_of(3, 1, 3)
    draws["sigma"][:] = torch.tensor([[0.1], [1.1], [3.0]])
    got, expected = both(pixels, draws, device, blur_kernel=blur_kernel)
    assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once_more_only(dtype: torch.dtype, device: torch.device) -> None:
    got, expected = both(crops_of(12, 2, 16, 4), draws_of(12, 2, 4), device, dtype)
    # Two steps of the result at 1 for its rounding, and float16's for the scratch memory of the blur.
    assert (got - expected).abs().max() < torch.finfo(dtype).eps + 2**-11 < 2 / 255 + 2**-11


def test_a_large_view_is_done_in_several_tiles_and_chunks(device: torch.device) -> None:
    got, expected = both(crops_of(2, 1, 97, 5), draws_of(2, 1, 5), device)
    assert (got - expected).abs().max() < 2e-5


def test_same_inputs_give_the_same_bits(device: torch.device) -> None:
    pixels, draws = crops_of(6, 2, 24, 6), draws_of(6, 2, 6)
    assert torch.equal(both(pixels, draws, device)[0], both(pixels, draws, device)[0])


def test_crops_and_draws_may_have_any_strides(device: torch.device) -> None:
    pixels, draws = crops_of(6, 2, 10, 7), draws_of(6, 2, 7)
    strided = {name: torch.stack([draw, draw], dim=1)[:, 1] for name, draw in draws.items()}
    apart = pixels.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(both(apart, strided, device)[0], both(pixels, draws, device)[0])


def test_no_images_give_no_views(device: torch.device) -> None:
    got, _ = both(crops_of(0, 2, 8, 0), draws_of(0, 2, 0), device)
    assert got.shape == (0, 3, 8, 8)
