from functools import partial
from itertools import permutations
from typing import Any, Literal, NamedTuple, Protocol

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from simsiam.kernels.augment import IMAGENET_MEAN, IMAGENET_STD, augment_views
from simsiam.kernels.augment_contract import PhotometricDraws
from tests.kernels.augment_inputs import crops, drawn, is_rounded, moved, neutral

# The bound promised is 2/255; float32 rounding needs far less. The compiled blur skips the ends of the Gaussian.
ROUNDING = 2e-5
BLUR = {"reference": ROUNDING, "auto": 0.25 / 255 + ROUNDING}

Implementation = Literal["reference", "auto"]


class Augment(Protocol):
    def __call__(self, pixels: Tensor, draws: Any, **options: Any) -> Tensor: ...


@pytest.fixture(params=["reference", "auto"])
def implementation(request: pytest.FixtureRequest) -> Implementation:
    return request.param


@pytest.fixture
def augment(implementation: Implementation) -> Augment:
    return partial(augment_views, implementation=implementation)


@pytest.fixture
def unnormalised(augment: Augment) -> Augment:
    return partial(augment, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def by_torchvision(pixels: Tensor, draws: PhotometricDraws[Tensor], kernel: int = 23) -> Tensor:
    """Return the views in [0, 1], one image after the other through torchvision's functionals."""
    adjust = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    images = []
    for view in range(pixels.shape[1]):
        for index in range(pixels.shape[0]):
            image = pixels[index, view].permute(2, 0, 1).float() / 255
            for code in draws.order[index, view].tolist():
                image = adjust[code](image, draws.jitter[index, view, code].item())
            if draws.gray[index, view]:
                image = functional.rgb_to_grayscale(image, num_output_channels=3)
            if draws.sigma[index, view] > 0:
                image = functional.gaussian_blur(image, [kernel, kernel], [draws.sigma[index, view].item()])
            if draws.solarize[index, view]:
                image = functional.solarize(image, 0.5)
            if draws.flip[index, view]:
                image = functional.horizontal_flip(image)
            images.append(image)
    return torch.stack(images)


@pytest.mark.parametrize("code", range(4), ids=["brightness", "contrast", "saturation", "hue"])
def test_each_jitter_operation_alone_is_torchvisions(code: int, unnormalised: Augment) -> None:
    pixels, draws = crops(9), neutral(9)
    draws.jitter[..., code] = drawn(9).jitter[..., code]
    draws.jitter[0, 0, code] = 0.5 if code == 3 else 0.0
    got = unnormalised(pixels, draws)
    expected = by_torchvision(pixels, draws)
    assert (got - expected).abs().max() < ROUNDING
    assert (expected - by_torchvision(pixels, neutral(9))).abs().max() > 0.05


def test_grayscale_alone_is_torchvisions(unnormalised: Augment) -> None:
    pixels, draws = crops(6), neutral(6)
    draws.gray[::2] = True
    assert (unnormalised(pixels, draws) - by_torchvision(pixels, draws)).abs().max() < ROUNDING


def test_solarizing_inverts_from_128_on_as_torchvision_does(unnormalised: Augment) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16, 1).expand(-1, -1, -1, -1, 3)
    draws = neutral(1, views=1)
    draws.solarize[:] = True
    expected = functional.solarize(levels[0].permute(0, 3, 1, 2), 128) / 255
    assert (unnormalised(levels, draws) - expected).abs().max() < ROUNDING


def test_anything_with_the_fields_of_the_draws_is_taken_by_name(augment: Augment) -> None:
    class Wider(NamedTuple):
        crop: Tensor
        solarize: Tensor
        sigma: Tensor
        gray: Tensor
        order: Tensor
        jitter: Tensor
        flip: Tensor

    pixels, draws = crops(3), drawn(3)
    wider = Wider(crop=torch.zeros(3, 2, 4), **draws._asdict())
    assert torch.equal(augment(pixels, wider), augment(pixels, draws))


def test_without_mean_and_std_views_are_normalised_as_imagenet(augment: Augment) -> None:
    pixels, draws = crops(3), drawn(3)
    expected = augment(pixels, draws, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert torch.equal(augment(pixels, draws), expected)


def test_all_24_orders_are_torchvisions(unnormalised: Augment) -> None:
    pixels, draws = crops(24, views=1, size=8), neutral(24, views=1)
    draws.order[:] = torch.tensor(list(permutations(range(4))), dtype=torch.uint8)[:, None]
    draws.jitter[:] = torch.tensor([1.4, 0.6, 1.4, -0.1])
    got = unnormalised(pixels, draws)
    assert (got - by_torchvision(pixels, draws)).abs().max() < ROUNDING
    # Each order matters: the same image comes out differently in all of them.
    same = unnormalised(pixels[:1].expand(24, -1, -1, -1, -1), draws)
    assert len({tuple(view.flatten().tolist()) for view in same}) == 24


@pytest.mark.parametrize("factor", [0.0, 0.01, 30.0])
def test_extreme_factors_are_torchvisions(factor: float, unnormalised: Augment) -> None:
    pixels, draws = crops(6), drawn(6)
    draws.jitter[...] = torch.tensor([factor, factor, factor, 0.5])
    draws.jitter[::2, :, 0] = 1.0
    draws.sigma[:] = 0
    assert (unnormalised(pixels, draws) - by_torchvision(pixels, draws)).abs().max() < 2 / 255


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_alone_is_torchvisions(sigma: float, unnormalised: Augment, implementation: Implementation) -> None:
    pixels, draws = crops(3), neutral(3)
    draws.sigma[:] = sigma
    draws.sigma[1, 0] = 1.3
    draws.sigma[2, 1] = 0
    assert (unnormalised(pixels, draws) - by_torchvision(pixels, draws)).abs().max() < BLUR[implementation]


@pytest.mark.parametrize(("size", "kernel"), [(12, 23), (11, 21), (8, 15), (2, 3), (1, 1)])
def test_a_small_image_is_blurred_with_the_widest_kernel_that_reflects(
    size: int, kernel: int, unnormalised: Augment, implementation: Implementation
) -> None:
    pixels, draws = crops(2, size=size), neutral(2)
    draws.sigma[:] = 2.0
    got = unnormalised(pixels, draws)
    assert (got - by_torchvision(pixels, draws, kernel)).abs().max() < BLUR[implementation]


def test_a_whole_chain_of_random_draws_is_torchvisions_image_by_image(
    augment: Augment, implementation: Implementation
) -> None:
    pixels, draws = crops(40), drawn(40)
    got = augment(pixels, draws)
    expected = functional.normalize(by_torchvision(pixels, draws), list(IMAGENET_MEAN), list(IMAGENET_STD))
    # The draws must hold every case: each operation comes first somewhere, each option is on and off.
    assert draws.order[..., 0].unique().numel() == 4
    assert all(0 < option.float().mean() < 1 for option in (draws.flip, draws.gray, draws.sigma > 0, draws.solarize))
    assert (got - expected).abs().max() < BLUR[implementation] / min(IMAGENET_STD)


def test_images_beyond_one_cached_chunk_are_done_too(unnormalised: Augment, implementation: Implementation) -> None:
    pixels, draws = crops(3, size=120), drawn(3, seed=4)
    for option in (draws.flip, draws.gray, draws.solarize):
        option[:] = True
    draws.sigma[:] = 1.0
    assert (unnormalised(pixels, draws) - by_torchvision(pixels, draws)).abs().max() < BLUR[implementation]
    # Larger than a chunk: one image at a time.
    pixels, draws = crops(2, size=400), neutral(2)
    plain = unnormalised(pixels, draws)
    draws.flip[:] = True
    assert torch.equal(unnormalised(pixels, draws), plain.flip(-1))


def test_first_views_come_before_second_views_in_channels_last(augment: Augment) -> None:
    count, size = 3, 4
    pixels = torch.empty(count, 2, size, size, 3, dtype=torch.uint8)
    for index in range(count):
        for view in range(2):
            pixels[index, view] = 10 * index + view
    views = augment(pixels, neutral(count), mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3)
    assert views.shape == (6, 3, size, size)
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert views[:, 0, 0, 0].round().tolist() == [0, 10, 20, 1, 11, 21]


def test_neutral_draws_only_normalise(augment: Augment) -> None:
    pixels = crops(4)
    views = augment(pixels, neutral(4))
    scaled = pixels.transpose(0, 1).flatten(0, 1).permute(0, 3, 1, 2).double() / 255
    exact = functional.normalize(scaled, list(IMAGENET_MEAN), list(IMAGENET_STD))
    assert (views - exact).abs().max() < 16 * torch.finfo(torch.float32).eps * exact.abs().max()


def test_turning_the_hue_leaves_black_white_and_gray_alone_and_turns_red_into_green(unnormalised: Augment) -> None:
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [77, 77, 77], [255, 0, 0]], dtype=torch.uint8)
    pixels = colours[:, None, None, None, :].expand(4, 1, 2, 2, 3)
    draws = neutral(4, views=1)
    draws.jitter[..., 3] = 1 / 3
    turned = unnormalised(pixels, draws)[:, :, 0, 0]
    expected = torch.tensor([[0.0] * 3, [1.0] * 3, [77 / 255] * 3, [0.0, 1.0, 0.0]])
    assert (turned - expected).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_only_the_normalised_result_is_cast(dtype: torch.dtype, augment: Augment) -> None:
    pixels, draws = crops(6), drawn(6)
    full = augment(pixels, draws)
    half = augment(pixels, draws, dtype=dtype)
    assert half.is_contiguous(memory_format=torch.channels_last)
    assert half.dtype == dtype and is_rounded(half, full)


def test_autocast_changes_no_bit(augment: Augment) -> None:
    pixels, draws = crops(6), drawn(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment(pixels, draws)
    assert torch.equal(inside, augment(pixels, draws))


def test_a_view_does_not_depend_on_its_batch_and_the_arguments_are_left_alone(augment: Augment) -> None:
    pixels, draws = crops(12), drawn(12)
    before = [tensor.clone() for tensor in (pixels, *draws)]
    together = augment(pixels, draws)
    alone = augment(pixels[7:8], PhotometricDraws(*(draw[7:8] for draw in draws)))
    assert torch.equal(together[[7, 12 + 7]], alone)
    assert all(torch.equal(left, right) for left, right in zip(before, (pixels, *draws), strict=True))


def test_an_empty_batch_gives_no_views(augment: Augment) -> None:
    assert augment(crops(0), neutral(0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(2, 2, 8, 8, 3)}, r"pixels is torch\.float32"),
        ({"pixels": torch.zeros(2, 2, 3, 8, 8, dtype=torch.uint8)}, r"\(2, 2, 3, 8, 8\)"),
        ({"flip": torch.zeros(2, 2)}, r"flip is torch\.float32 .*give torch\.bool \(2, 2\)"),
        ({"jitter": torch.ones(2, 2, 3)}, r"jitter is .*\(2, 2, 3\); .*give torch\.float32 \(2, 2, 4\)"),
        ({"order": torch.zeros(2, 2, 4, dtype=torch.int64)}, r"order is torch\.int64"),
        ({"gray": torch.zeros(3, 2, dtype=torch.bool)}, r"gray is .*\(3, 2\)"),
        ({"sigma": torch.zeros(2, 2, dtype=torch.float64)}, r"sigma is torch\.float64"),
        ({"sigma": torch.zeros(2, 2, device="meta")}, "sigma is on meta"),
        ({"solarize": torch.zeros(2, 2)}, r"solarize is torch\.float32"),
        ({"implementation": "fast"}, "implementation is fast; give auto or reference"),
        ({"std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"mean": (0.5, 0.5)}, "three numbers"),
        ({"dtype": torch.uint8}, r"dtype is torch\.uint8"),
        ({"blur_kernel": 4}, "blur_kernel is 4"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change: dict[str, Any], message: str) -> None:
    draws = {name: change.pop(name, draw) for name, draw in neutral(2)._asdict().items()}
    arguments: dict[str, Any] = {"pixels": crops(2, size=8), "draws": PhotometricDraws(**draws), **change}
    with pytest.raises(ValueError, match=message):
        augment_views(**arguments)


def test_compiling_keeps_one_graph_and_every_bit(augment: Augment) -> None:
    pixels, draws = crops(3), drawn(3)

    def doubled(pixels: Tensor, draws: PhotometricDraws[Tensor]) -> Tensor:
        return 2 * augment(pixels, draws)

    compiled = torch.compile(doubled, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(pixels, draws), doubled(pixels, draws))


@pytest.mark.parametrize(("count", "size"), [(3, 8), (1, 1), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operator_is_registered_as_pytorch_wants_it(
    count: int, size: int, dtype: torch.dtype, implementation: Implementation
) -> None:
    arguments = (
        crops(count, size=size),
        list(drawn(count)),
        list(IMAGENET_MEAN),
        list(IMAGENET_STD),
        dtype,
        23,
        implementation,
    )
    torch.library.opcheck(torch.ops.simsiam.augment_views.default, arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_views_of_the_cpu() -> None:
    pixels, draws = crops(40), drawn(40)
    on_device = augment_views(pixels.cuda(), moved(draws, torch.device("cuda")))
    assert on_device.is_cuda
    on_host = augment_views(pixels, draws)
    assert (on_device.cpu() - on_host).abs().max() < ROUNDING / min(IMAGENET_STD)
