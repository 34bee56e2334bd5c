import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from simsiam.pipeline.errors import ImageError
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.evaluation.center_crop import CenterCrop
from simsiam.train.evaluation.features import extract_features
from simsiam.train.precision import Arithmetic

FP32 = Arithmetic(torch.device("cpu"), "fp32")
TRANSFORM = CenterCrop(size=16, short_side=18, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


class Flat(nn.Module):
    """Gives every pixel of its input as a feature, and notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.calls = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((self.training, torch.is_grad_enabled(), len(images)))
        assert images.is_contiguous(memory_format=torch.channels_last)
        return images.flatten(1)


@pytest.fixture(scope="module")
def source(tiny_images: Path) -> Source:
    return open_source(tiny_images / "test")


@pytest.mark.parametrize("workers", [0, 2])
def test_features_come_in_order_from_normalised_crops(source: Source, workers: int) -> None:
    features = extract_features(Flat(), source, TRANSFORM, FP32, workers, batch_size=5)
    assert features.vectors.shape == (16, 3 * 16 * 16) and features.vectors.dtype == torch.float32
    assert features.labels.tolist() == source.labels.tolist()
    reference = transforms.Compose(
        [
            transforms.Resize(18),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        ]
    )
    for index in range(16):
        expected = reference(Image.fromarray(source.decode(index)))
        torch.testing.assert_close(features.vectors[index].view(3, 16, 16), expected, rtol=1e-5, atol=1e-5)


def test_encoder_is_in_eval_mode_without_gradients_and_left_as_it_was(source: Source) -> None:
    encoder = Flat().train()
    encoder.norm.eval()  # a frozen part inside a training model
    extract_features(encoder, source, TRANSFORM, FP32, 0, batch_size=7)
    assert encoder.calls == [(False, False, 7), (False, False, 7), (False, False, 2)]
    assert (encoder.training, encoder.norm.training) == (True, False)
    encoder.eval()
    extract_features(encoder, source, TRANSFORM, FP32, 0)
    assert not encoder.training


def test_encoder_is_left_as_it_was_when_an_image_fails(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Flat().train()
    monkeypatch.setattr(encoder, "forward", lambda images: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract_features(encoder, source, TRANSFORM, FP32, 0)
    assert encoder.training


@pytest.mark.parametrize("workers", [0, 2])
def test_image_that_breaks_on_the_way_is_named_in_one_line(tiny_images: Path, tmp_path: Path, workers: int) -> None:
    file = tmp_path / "a" / "1.jpg"
    file.parent.mkdir()
    file.write_bytes(next((tiny_images / "test").rglob("*.jpg")).read_bytes())
    source = open_source(tmp_path)
    file.write_bytes(b"overwritten since the scan")
    with pytest.raises(ImageError, match=r"a/1\.jpg: not an image") as caught:
        extract_features(Flat(), source, TRANSFORM, FP32, workers)
    assert "\n" not in str(caught.value)


def test_progress_is_told(source: Source) -> None:
    calls = []
    extract_features(
        Flat(), source, TRANSFORM, FP32, 0, batch_size=6, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(6, 16), (12, 16), (16, 16)]


def test_bf16_features_come_back_as_float32(source: Source) -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    seen = []
    encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    features = extract_features(encoder, source, TRANSFORM, Arithmetic(torch.device("cpu"), "bf16"), 0)
    assert (seen, features.vectors.dtype) == ([torch.bfloat16], torch.float32)


def test_settings_have_defaults(tiny_images: Path) -> None:
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    features = extract_features(encoder, tiny_images / "test", CenterCrop(16, 18))
    expected = extract_features(encoder, open_source(tiny_images / "test"), CenterCrop(16, 18), FP32, 0)
    assert torch.equal(features.vectors, expected.vectors) and features.vectors.shape == (16, 12)


def test_crop_larger_than_the_resized_image_is_refused(source: Source) -> None:
    with pytest.raises(ValueError, match="short side 15 must lie between the crop's 16 and 4,096"):
        extract_features(Flat(), source, TRANSFORM._replace(short_side=15), FP32, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_leave_a_signal_to_the_group_to_the_parent(number: signal.Signals, source: Source) -> None:
    """Job managers and terminals signal every process; one that dies of it would end the measurement with an error."""

    def end_the_workers(done: int, total: int) -> None:
        if done < 2:
            return  # the second one may still be starting
        for worker in multiprocessing.active_children():
            os.kill(worker.pid or 0, number)
        time.sleep(0.2)

    features = extract_features(Flat(), source, TRANSFORM, FP32, 2, batch_size=1, progress=end_the_workers)
    assert len(features.vectors) == len(source)
