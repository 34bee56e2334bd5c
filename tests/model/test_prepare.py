import pytest
import torch
from torch import nn

from simsiam.model.activation_checkpointing import is_recomputed
from simsiam.model.fused_batch_norm import FusedBatchNorm2d
from simsiam.model.prepare import prepare
from simsiam.model.resnet import ResNet, resnet
from simsiam.model.simsiam import SimSiam
from simsiam.model.small_map_conv import SmallMapConv2d

CPU = torch.device("cpu")
FUSED, SMALL = {FusedBatchNorm2d}, {SmallMapConv2d}


def kinds(model: nn.Module) -> set[type]:
    return {type(module) for module in model.modules()} & (FUSED | SMALL)


@pytest.fixture
def encoder() -> ResNet:
    return resnet("resnet18", "cifar")


@pytest.mark.parametrize(
    ("compiled", "fused_batch_norm", "rewritten"),
    [
        (False, "auto", FUSED | SMALL),
        (False, "off", SMALL),
        (True, "auto", set()),  # a compiler gets the plain operations
        (True, "on", FUSED),
    ],
)
def test_rewrites_on_a_cpu(encoder: ResNet, compiled: bool, fused_batch_norm, rewritten: set[type]) -> None:
    assert prepare(encoder, CPU, compiled=compiled, fused_batch_norm=fused_batch_norm) is encoder
    assert kinds(encoder) == rewritten
    assert encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_simsiam_and_its_encoder_alone_are_rewritten_alike(encoder: ResNet) -> None:
    model = prepare(SimSiam(encoder), CPU, recompute=True, world_size=2)
    assert kinds(model.encoder) == FUSED | SMALL and is_recomputed(model)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {norm.world_size for norm in norms} == {2} and {norm.views for norm in norms} == {2}


def test_names_of_the_state_stay(encoder: ResNet) -> None:
    names = list(encoder.state_dict())
    assert list(prepare(encoder, CPU, recompute=True).state_dict()) == names
