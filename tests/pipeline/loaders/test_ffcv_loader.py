import ctypes
import gc
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simsiam.pipeline.augmentation import Augmentation
from simsiam.pipeline.beton.reader import Beton
from simsiam.pipeline.errors import ForeignFileError, ImageError, RunError, UsageError
from simsiam.pipeline.loaders.torch_loader import TorchLoader
from simsiam.pipeline.plan import CropPlan, OnBroken
from simsiam.pipeline.sources.image_folder import ImageFolder
from tests.pipeline.images import encoded, photograph
from tests.pipeline.wait_until import wait_until

pytest.importorskip("ffcv", reason="FFCV isn't installed", exc_type=ImportError)
from simsiam.pipeline.loaders import ffcv_loader
from simsiam.pipeline.loaders.ffcv_loader import FfcvLoader

CPU = torch.device("cpu")


def jpeg(image: Image.Image | np.ndarray, **options: Any) -> bytes:
    settings: dict[str, Any] = {"quality": 90} | options
    return encoded(image, **settings)


def plan(source: Beton, batch_size: int = 3, crop_size: int = 8, on_broken: OnBroken = "error") -> CropPlan:
    return CropPlan(source, Augmentation(), crop_size, batch_size, on_broken=on_broken)


def test_crops_are_within_a_grey_level_of_the_references(pack, tmp_path: Path) -> None:
    """Decoder and filter are the same, but the reference rounds between its two passes."""
    sizes = [(300, 400), (400, 300), (120, 160), (333, 500), (500, 375), (90, 97), (375, 500), (250, 250)]
    source = pack(tmp_path / "photographs.beton", [jpeg(photograph(*size, seed)) for seed, size in enumerate(sizes)])
    both = plan(source, len(source), crop_size=96)
    ours, theirs = (next(loader.epoch(0)) for loader in (FfcvLoader(both, CPU, 2), TorchLoader(both, CPU, 0)))
    assert torch.equal(ours.index, theirs.index)
    differences = (ours.pixels.int() - theirs.pixels.int()).abs()
    assert differences.max() <= 1
    assert differences.float().mean() < 0.25


def test_any_number_of_threads_gives_the_same_pixels(pack, tmp_path: Path) -> None:
    source = pack(tmp_path / "photographs.beton", [jpeg(photograph(60 + 7 * n, 90 - 5 * n, n)) for n in range(9)])
    one, five = (
        torch.cat([crops.pixels for crops in FfcvLoader(plan(source, crop_size=50), CPU, threads).epoch(0)])
        for threads in (1, 5)
    )
    assert torch.equal(one, five)


def test_pixels_stored_raw_are_cropped_like_those_of_a_jpeg(pack, tmp_path: Path) -> None:
    pictures = [np.asarray(photograph(40 + 5 * number, 50, number)) for number in range(4)]
    raw, packed = (
        next(FfcvLoader(plan(pack(tmp_path / f"{name}.beton", images), 4), CPU, 1).epoch(0)).pixels.int()
        for name, images in (
            ("raw", pictures),
            ("packed", [jpeg(p, quality=100, subsampling=0) for p in pictures]),
        )
    )
    assert 0 < (raw - packed).abs().float().mean() < 2


def test_a_single_pixel_and_a_single_line_are_cropped(pack, tmp_path: Path) -> None:
    dot, line = np.full((1, 1, 3), 200, np.uint8), np.full((1, 3000, 3), 90, np.uint8)
    source = pack(tmp_path / "thin.beton", [jpeg(dot), dot, jpeg(line), line, jpeg(line.transpose(1, 0, 2))])
    crops = next(FfcvLoader(plan(source, 5), CPU, 1).epoch(0))
    for index, pixels in zip(crops.index.tolist(), crops.pixels, strict=True):
        assert (pixels.int() - (200 if index < 2 else 90)).abs().max() <= 2


def test_a_gray_jpeg_gives_three_equal_channels(pack, tmp_path: Path) -> None:
    source = pack(tmp_path / "gray.beton", [jpeg(photograph(30, 40, 0).convert("L"))])
    pixels = next(FfcvLoader(plan(source, 1), CPU, 1).epoch(0)).pixels
    assert (pixels == pixels[..., :1]).all() and pixels.float().std() > 5


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_a_file_truncated_while_in_use_is_an_error_with_index_and_name(beton: Beton, quarter: int) -> None:
    loader = FfcvLoader(plan(beton, 11), CPU, 2)
    first, end = int(beton.records.offsets[0]), beton.path.stat().st_size
    # The images are between the metadata and the table; the start of the file isn't read again.
    os.truncate(beton.path, first + (end - first) * quarter // 4)
    with pytest.raises(
        ImageError, match=r"pictures\.beton\[\d+\].*shorter since it was opened \(image \d+ of .*beton\)"
    ):
        list(loader.epoch(0))
    loader.close()


@pytest.mark.parametrize("quarter", [0, 1, 2, 3])
def test_a_truncated_file_is_refused(beton: Beton, quarter: int) -> None:
    os.truncate(beton.path, beton.path.stat().st_size * quarter // 4)
    with pytest.raises(UsageError, match=r"truncated|less than a header"):
        Beton(beton.path)


def test_a_warning_of_the_decoder_is_an_error_with_index_and_name(pack, tmp_path: Path) -> None:
    data = bytearray(jpeg(photograph(64, 64, 0)))
    middle = data.index(b"\xff\xda") + 200
    data[middle : middle + 40] = b"\xf7" * 40
    source = pack(tmp_path / "flipped.beton", [bytes(data)])
    with pytest.raises(ImageError, match=r"flipped\.beton\[0\]: .*: Corrupt JPEG data.* \(image 0 of .*beton\)"):
        list(FfcvLoader(plan(source, 1), CPU, 1).epoch(0))


def test_images_unknown_to_turbojpeg_are_decoded_by_the_reference(pack, tmp_path: Path) -> None:
    """TurboJPEG can't convert CMYK to RGB."""
    cmyk = encoded(photograph(40, 50, 0).convert("CMYK"))
    source = pack(tmp_path / "cmyk.beton", [jpeg(photograph(40, 50, 1)), cmyk])
    both = plan(source, 2)
    ours, theirs = (next(loader.epoch(0)) for loader in (FfcvLoader(both, CPU, 1), TorchLoader(both, CPU, 0)))
    assert (ours.pixels.int() - theirs.pixels.int()).abs().max() <= 1
    assert theirs.pixels.float().std() > 5


def test_a_jpeg_of_another_size_than_in_the_index_is_an_error(pack, tmp_path: Path) -> None:
    path = tmp_path / "liar.beton"
    source = pack(path, [jpeg(photograph(64, 48, 0))])
    source.records.sizes[:] = 32, 24  # half of it: the decoder would scale silently
    with pytest.raises(ImageError, match=r"64×48 .* 32×24"):
        list(FfcvLoader(plan(source, 1), CPU, 1).epoch(0))


def test_more_broken_neighbours_than_samples_end_in_an_error(pack, tmp_path: Path) -> None:
    source = pack(tmp_path / "ruin.beton", [jpeg(photograph(64, 64, n))[:-900] for n in range(3)])
    with pytest.raises(ImageError, match="3 images before it are broken"):
        list(FfcvLoader(plan(source, on_broken="replace"), CPU, 1).epoch(0))


def test_a_thread_that_dies_is_an_error_for_the_consumer(beton: Beton, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, victims = threading.Event(), []

    def stall(*_: object) -> None:
        if entered.is_set():
            raise AssertionError("the thread lives on")
        victims.append(threading.get_ident())
        entered.set()
        while True:
            time.sleep(0.01)

    monkeypatch.setattr(ffcv_loader, "crop_records", stall)
    loader = FfcvLoader(plan(beton), CPU, 1)

    def kill() -> None:
        entered.wait()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(victims[0]), ctypes.py_object(SystemExit))

    threading.Thread(target=kill).start()
    with pytest.raises(RunError, match="ended by SystemExit"):
        next(loader.epoch(0))
    loader.close()


def test_a_loader_closed_in_mid_epoch_says_so(beton: Beton) -> None:
    others = threading.active_count()
    loader = FfcvLoader(plan(beton), CPU, 2)
    crops = loader.epoch(0)
    next(crops)
    loader.close()
    with pytest.raises(UsageError, match="closed"):
        next(crops)
    assert threading.active_count() == others


def test_a_forgotten_loader_ends_its_threads(beton: Beton) -> None:
    others = set(threading.enumerate())
    next(FfcvLoader(plan(beton), CPU, 2).epoch(0))
    gc.collect()
    for thread in set(threading.enumerate()) - others:
        thread.join(timeout=5)
    assert set(threading.enumerate()) <= others


def test_work_runs_ahead_of_the_consumer_by_two_steps_and_no_more(
    beton: Beton, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    step = CropPlan.step
    monkeypatch.setattr(CropPlan, "step", lambda plan, epoch, n: started.append(n) or step(plan, epoch, n))
    loader = FfcvLoader(plan(beton, 2), CPU, 1)
    crops = loader.epoch(0)
    for ahead in ([0, 1, 2], [0, 1, 2, 3]):
        next(crops)
        wait_until(lambda ahead=ahead: started == ahead)
    loader.close()


def test_a_folder_is_refused(pictures: ImageFolder) -> None:
    with pytest.raises(ForeignFileError, match=r"\.beton"):
        FfcvLoader(CropPlan(pictures, Augmentation(), 8, 3), CPU, 1)
