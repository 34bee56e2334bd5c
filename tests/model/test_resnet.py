import math

import pytest
import torch
import torchvision
from torch import nn

from simsiam.model.batch_norm import PerViewBatchNorm2d
from simsiam.model.resnet import resnet

ARCHS = ["resnet18", "resnet34", "resnet50", "resnet101"]


@pytest.mark.parametrize("arch", ARCHS)
def test_state_is_torchvisions_without_the_classifier(arch: str) -> None:
    with torch.device("meta"):
        ours = resnet(arch).state_dict()
        theirs = torchvision.models.get_model(arch).state_dict()
    assert list(ours) == [name for name in theirs if not name.startswith("fc.")]
    assert all(ours[name].shape == theirs[name].shape for name in ours)


def test_features_are_torchvisions_pooled_features_with_the_same_weights() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18().eval()
    ours = resnet("resnet18").eval()
    assert not ours.load_state_dict(theirs.state_dict(), strict=False).missing_keys
    theirs.fc = nn.Identity()  # type: ignore[assignment]
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("arch", "feature_dim"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("resnet101", 2048)]
)
def test_feature_dim_is_the_width_of_the_output(arch: str, feature_dim: int) -> None:
    with torch.device("meta"):
        encoder = resnet(arch)
        features = encoder(torch.empty(2, 3, 64, 64))
    assert encoder.feature_dim == feature_dim
    assert features.shape == (2, feature_dim)


def test_taps_of_resnet50_at_224_pixels_are_those_of_the_benchmarks() -> None:
    with torch.device("meta"):
        taps = resnet("resnet50").taps(torch.empty(2, 3, 224, 224))
    assert {name: tuple(tap.shape[1:]) for name, tap in taps.items()} == {
        "feature1": (64, 112, 112),
        "feature2": (256, 56, 56),
        "feature3": (512, 28, 28),
        "feature4": (1024, 14, 14),
        "feature5": (2048, 7, 7),
    }


def test_cifar_stem_keeps_the_resolution_and_taps_are_the_maps_behind_the_features() -> None:
    torch.manual_seed(0)
    encoder = resnet("resnet18", "cifar").double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        taps, features = encoder.taps(images), encoder(images)
        stem = torch.relu(encoder.bn1(encoder.conv1(images)))
    assert [tuple(tap.shape[1:]) for tap in taps.values()] == [
        (64, 32, 32),
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
    ]
    assert torch.equal(taps["feature1"], stem)
    torch.testing.assert_close(taps["feature5"].mean(dim=(2, 3)), features)
    assert encoder.conv1.bias is None


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_every_residual_block_starts_as_the_identity(arch: str) -> None:
    encoder = resnet(arch)
    last = "bn2" if arch == "resnet18" else "bn3"
    for name, module in encoder.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            expected = 0.0 if name.startswith("layer") and name.endswith(last) else 1.0
            assert module.weight.unique().tolist() == [expected], name
            assert module.bias.unique().tolist() == [0.0], name


def test_convolutions_start_with_the_fan_out_deviation_of_kaiming() -> None:
    torch.manual_seed(0)
    encoder = resnet("resnet18", "cifar")
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06), name


def test_every_batch_norm_is_plain() -> None:
    with torch.device("meta"):
        norms = [module for module in resnet("resnet50").modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert all(isinstance(norm, PerViewBatchNorm2d) and norm.views == 1 for norm in norms)


@pytest.mark.parametrize("images", [5, 8])
def test_in_training_it_is_torchvisions_resnet_forward_backward_and_in_its_statistics(images: int) -> None:
    torch.manual_seed(0)
    ours, theirs = resnet("resnet18", zero_init_residual=False).double(), torchvision.models.resnet18().double()
    theirs.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    theirs.load_state_dict(ours.state_dict())
    pixels = torch.randn(images, 3, 32, 32, dtype=torch.float64)
    outputs = [encoder.train()(pixels) for encoder in (ours, theirs)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other)


def test_an_unknown_encoder_is_answered_with_the_choices_and_the_nearest() -> None:
    with pytest.raises(
        ValueError, match=r"'resnet5'.*resnet18, resnet34, resnet50, resnet101; did you mean resnet50\?"
    ):
        resnet("resnet5")
    with pytest.raises(ValueError, match=r"'vit'.*resnet101\.$"):
        resnet("vit")
    with pytest.raises(ValueError, match="no stem 'tiny'"):
        resnet("resnet18", "tiny")  # type: ignore[arg-type]
