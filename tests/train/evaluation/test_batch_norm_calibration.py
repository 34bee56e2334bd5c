import copy
from pathlib import Path

import pytest
import torch

from simsiam.model.batch_norm import separate_views
from simsiam.model.fused_batch_norm import fuse_batch_norm
from simsiam.model.resnet import ResNet, resnet
from simsiam.pipeline.source import Source
from simsiam.pipeline.sources.open_source import open_source
from simsiam.train.evaluation import batch_norm_calibration
from simsiam.train.evaluation.batch_norm_calibration import has_seen_no_batch, with_statistics
from simsiam.train.evaluation.center_crop import CenterCrop, center_crop
from simsiam.train.precision import Arithmetic

FP32 = Arithmetic(torch.device("cpu"), "fp32")
TRANSFORM = CenterCrop(size=16, short_side=18, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def source(tiny_images: Path) -> Source:
    return open_source(tiny_images / "train")


@pytest.fixture
def encoder() -> ResNet:
    torch.manual_seed(0)
    encoder = resnet("resnet18", "cifar")
    separate_views(encoder, 2)  # as in SimSiam
    return encoder


def test_an_encoder_has_seen_a_batch_once_it_has_trained_on_one(encoder: ResNet) -> None:
    assert has_seen_no_batch(encoder)
    encoder.eval()(torch.randn(2, 3, 16, 16))
    assert has_seen_no_batch(encoder)
    encoder.train()(torch.randn(4, 3, 16, 16))
    assert not has_seen_no_batch(encoder)


@pytest.mark.parametrize("images", [4, 256])
@pytest.mark.parametrize("fused", [False, True])
def test_statistics_are_of_images_spread_over_the_source(
    images: int, fused: bool, encoder: ResNet, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_norm_calibration, "_IMAGES", images)
    indices = [0, 16, 31, 47] if images == 4 else range(48)
    crops = torch.stack([torch.from_numpy(center_crop(source.decode(index), 16, 18)) for index in indices])
    pixels = (crops.permute(0, 3, 1, 2) / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.3, 0.4]
    ).view(3, 1, 1)
    expected = torch.nn.functional.conv2d(pixels.double(), encoder.conv1.weight.detach().double(), padding=1)
    variance, mean = torch.var_mean(expected, (0, 2, 3))
    if fused:
        fuse_batch_norm(encoder)
    fresh = with_statistics(encoder, source, TRANSFORM, FP32)
    assert isinstance(fresh, ResNet)
    state, some_roundings = fresh.state_dict(), 100 * torch.finfo(torch.float32).eps
    assert (state["bn1.running_mean"] - mean).norm() < some_roundings * variance.sqrt().norm()
    assert (state["bn1.running_var"] - variance).norm() < some_roundings * variance.norm()


def test_the_encoder_itself_is_left_as_it_was_also_where_others_share_its_statistics(
    encoder: ResNet, source: Source
) -> None:
    for module in encoder.modules():
        if hasattr(module, "world_size"):
            module.world_size = 2  # type: ignore[assignment]
    before = copy.deepcopy(encoder.state_dict())
    with_statistics(encoder, source, TRANSFORM, FP32)
    assert encoder.training and encoder.bn1.world_size == encoder.bn1.views == 2
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
