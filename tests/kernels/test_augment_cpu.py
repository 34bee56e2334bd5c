import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from simsiam.kernels import augment_cpu_rows
from simsiam.kernels.augment import IMAGENET_MEAN, IMAGENET_STD, augment_views_reference
from simsiam.kernels.augment_contract import PhotometricDraws
from simsiam.kernels.augment_cpu import augment_views_cpu
from tests.kernels.augment_inputs import crops, drawn, is_rounded

pytestmark = pytest.mark.usefixtures("poisoned_memory")

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
# The bound promised is 1/255; the blur may use a quarter of it, and float32 rounding very little.
LIMIT = 0.25 / 255 + 2e-5


def augment(
    pixels: Tensor, draws: PhotometricDraws[Tensor], dtype: torch.dtype = torch.float32, blur_kernel: int = 23
) -> Tensor:
    return augment_views_cpu(pixels, draws, mean=MEAN, std=STD, dtype=dtype, blur_kernel=blur_kernel)


def reference(pixels: Tensor, draws: PhotometricDraws[Tensor], blur_kernel: int = 23) -> Tensor:
    return augment_views_reference(pixels, draws, mean=MEAN, std=STD, dtype=torch.float32, blur_kernel=blur_kernel)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 11, 12, 33, 65])
@pytest.mark.parametrize("views", [1, 3])
def test_every_pixel_of_odd_shapes_is_written_as_by_the_reference(size: int, views: int) -> None:
    pixels, draws = crops(11, views, size, seed=size), drawn(11, views, seed=size)
    assert (augment(pixels, draws) - reference(pixels, draws)).abs().max() < LIMIT / min(STD)


@pytest.mark.parametrize("blur_kernel", [1, 3, 23, 45])
@pytest.mark.parametrize("sigma", [1e-20, 0.1, 0.3, 1.0, 2.0, 4.0, 1e20])
def test_hard_edges_are_blurred_within_the_bound(sigma: float, blur_kernel: int) -> None:
    # Steps from 0 to 255 and single bright pixels weigh the whole tail of the Gaussian.
    pixels, draws = torch.zeros((2, 2, 30, 30, 3), dtype=torch.uint8), drawn(2)
    pixels[0, :, :, 13:] = 255
    pixels[1, :, 13:, ::7] = 255
    draws.sigma[:] = sigma
    got, expected = (run(pixels, draws, blur_kernel=blur_kernel) for run in (augment, reference))
    assert (got - expected).abs().max() < LIMIT / min(STD)


def test_weights_of_the_gaussian_sum_to_one_and_reach_no_further_than_needed() -> None:
    for sigma, reach in ((0.1, 0), (1.0, 3), (2.0, 7), (5.0, 11)):
        weights = augment_cpu_rows._gaussian(np.float32(sigma), 11)
        assert len(weights) == reach + 1
        assert 2 * weights.sum() - weights[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_converted_from_the_float32_result(dtype: torch.dtype) -> None:
    pixels, draws = crops(9, size=20), drawn(9)
    assert torch.equal(augment(pixels, draws, dtype), augment(pixels, draws).to(dtype))


def test_bfloat16_is_written_as_the_float32_result_rounded() -> None:
    pixels, draws = crops(9, size=20), drawn(9)
    got = augment(pixels, draws, torch.bfloat16)
    assert got.dtype == torch.bfloat16 and is_rounded(got, augment(pixels, draws))


def test_bfloat16_is_rounded_as_by_pytorch_at_every_tie() -> None:
    # All upper halves of the positive and negative finite numbers, just below, on and above half a step.
    upper = torch.arange(0x7F80, dtype=torch.int64) << 16
    bits = torch.cat([upper + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    values = torch.cat([bits, bits | 1 << 31]).to(torch.uint32).view(torch.float32)
    got = [augment_cpu_rows._bfloat16(value) for value in values.numpy()[::97]]
    assert got == values.bfloat16().view(torch.uint16)[::97].tolist()


def test_any_number_of_threads_gives_the_same_bits_twice() -> None:
    pixels, draws = crops(30, size=20), drawn(30)
    results = []
    for threads in (1, 1, 2, 3, 16):
        torch.set_num_threads(threads)
        results.append(augment(pixels, draws))
        assert torch.get_num_threads() == threads
    assert all(torch.equal(results[0], result) for result in results)


def test_as_many_threads_work_as_pytorch_may_use_and_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, draws, before = crops(30, size=20), drawn(30), threading.active_count()
    expected, compiled = augment(pixels, draws), augment_cpu_rows.augment_range
    workers, together = set(), threading.Barrier(3, timeout=30)

    def spy(*arguments: Any) -> None:
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            together.wait()
        compiled(*arguments)

    monkeypatch.setattr("simsiam.kernels.augment_cpu.augment_range", spy)
    torch.set_num_threads(3)
    assert torch.equal(augment(pixels, draws), expected)
    assert len(workers) == 3 and threading.active_count() == before


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr("simsiam.kernels.augment_cpu.augment_range", fail)
    torch.set_num_threads(2)
    with pytest.raises(RuntimeError, match="out of order"):
        augment(crops(30, size=20), drawn(30))


def test_memory_in_any_order_is_taken_and_left_alone() -> None:
    pixels, draws = crops(6, size=20), drawn(6)
    expected = augment(pixels, draws)
    strided = PhotometricDraws(*(draw.transpose(0, 1).contiguous().transpose(0, 1) for draw in draws))
    apart = pixels.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    before = [tensor.clone() for tensor in (apart, *strided)]
    kinds = len(augment_cpu_rows.augment_range.signatures)
    assert torch.equal(augment(apart, strided), expected)
    assert all(torch.equal(left, right) for left, right in zip(before, (apart, *strided), strict=True))
    # Each kind of array that the compiled code is called with costs another ten seconds of compiling.
    assert len(augment_cpu_rows.augment_range.signatures) == kinds
