import pytest
import torch
from torch import Tensor

from simsiam.kernels.augment import IMAGENET_MEAN, IMAGENET_STD, augment_views_reference
from simsiam.kernels.augment_contract import PhotometricDraws
from tests.kernels.augment_inputs import crops, drawn, moved, neutral

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def both(
    pixels: Tensor,
    draws: PhotometricDraws[Tensor],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    blur_kernel: int = 23,
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
    std: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Return the kernels' views and the reference's, in float64."""
    from simsiam.kernels.augment_triton import augment_views_triton

    options = {"mean": mean, "std": std, "blur_kernel": blur_kernel}
    got = augment_views_triton(pixels.to(device), moved(draws, device), **options, dtype=dtype)
    assert got.dtype == dtype and got.device.type == device.type
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected = augment_views_reference(pixels, draws, **options, dtype=torch.float32)
    assert got.shape == expected.shape
    return got.cpu().double(), expected.double()


@pytest.mark.parametrize(("count", "views", "size"), [(16, 2, 17), (4, 3, 33), (1, 1, 5), (2, 2, 1), (3, 1, 2)])
def test_a_whole_chain_of_random_draws_is_the_references(
    count: int, views: int, size: int, device: torch.device
) -> None:
    pixels, draws = crops(count, views, size), drawn(count, views)
    got, expected = both(pixels, draws, device, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert (got - expected).abs().max() < 1e-4


@pytest.mark.parametrize("code", range(4), ids=["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_operation_alone_is_the_references(code: int, device: torch.device) -> None:
    pixels, draws = crops(6, 1, 12, code), neutral(6, 1)
    draws.jitter[..., code] = drawn(6, 1, code).jitter[..., code]
    draws.order[:] = drawn(6, 1, code).order
    got, expected = both(pixels, draws, device)
    assert (got - expected).abs().max() < 1e-5
    assert (expected - both(pixels, neutral(6, 1), device)[1]).abs().max() > 0.1


def test_neutral_draws_change_no_bit(device: torch.device) -> None:
    pixels, draws = crops(3, 1, 9), neutral(3, 1)
    draws.order[:] = drawn(3, 1).order
    got, expected = both(pixels, draws, device)
    assert (got - expected).abs().max() < 1e-6
    # Equal bytes stay equal numbers, whatever colour they are part of.
    assert got.unique().numel() == pixels.unique().numel()


@pytest.mark.parametrize(("size", "blur_kernel"), [(40, 23), (40, 5), (8, 23), (3, 23), (40, 1)])
def test_blur_is_the_references_up_to_the_mirrored_edges(size: int, blur_kernel: int, device: torch.device) -> None:
    pixels, draws = crops(3, 1, size), drawn(3, 1, 3)
    draws.sigma[:] = torch.tensor([[0.1], [1.1], [3.0]])
    got, expected = both(pixels, draws, device, blur_kernel=blur_kernel)
    assert (got - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once_more_only(dtype: torch.dtype, device: torch.device) -> None:
    got, expected = both(crops(12, 2, 16), drawn(12), device, dtype)
    # Two steps of the result at 1 for its rounding, and float16's for the scratch memory of the blur.
    assert (got - expected).abs().max() < torch.finfo(dtype).eps + 2**-11 < 2 / 255 + 2**-11


def test_a_large_view_is_done_in_several_tiles_and_chunks(device: torch.device) -> None:
    got, expected = both(crops(2, 1, 97), drawn(2, 1, 5), device)
    assert (got - expected).abs().max() < 2e-5


def test_same_inputs_give_the_same_bits(device: torch.device) -> None:
    pixels, draws = crops(6, 2, 24), drawn(6)
    assert torch.equal(both(pixels, draws, device)[0], both(pixels, draws, device)[0])


def test_crops_and_draws_may_have_any_strides(device: torch.device) -> None:
    pixels, draws = crops(6, 2, 10), drawn(6)
    strided = PhotometricDraws(*(torch.stack([draw, draw], dim=1)[:, 1] for draw in draws))
    apart = pixels.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(both(apart, strided, device)[0], both(pixels, draws, device)[0])


def test_no_images_give_no_views(device: torch.device) -> None:
    got, _ = both(crops(0, 2, 8), drawn(0), device)
    assert got.shape == (0, 3, 8, 8)
