import pytest
import torch
import torchvision
from torch import nn

from simsiam.model.encoder_weights import find_encoder_weights
from simsiam.model.resnet import resnet


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(1)
    return torchvision.models.resnet18(num_classes=10)


def prefixed(prefix: str, module: nn.Module) -> dict:
    return {prefix + name: value for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda net: prefixed("", net), ""),
        (lambda net: {"state_dict": prefixed("module.encoder.", net), "arch": "resnet18"}, "module.encoder."),
        (lambda net: {"state_dict": prefixed("module.encoder_q.", net)}, "module.encoder_q."),
        (lambda net: {"state_dict": prefixed("backbone.", net), "meta": {}}, "backbone."),
        (lambda net: {"model": prefixed("", net)}, ""),
    ],
)
def test_weights_are_found_behind_any_prefix(wrap, prefix: str, trained: nn.Module) -> None:
    encoder = resnet("resnet18")
    found = find_encoder_weights(wrap(trained), encoder)
    assert (found.prefix, found.unused) == (prefix, ["fc.bias", "fc.weight"])
    encoder.load_state_dict(found.tensors)
    trained.eval()
    features = nn.Sequential(*list(trained.children())[:-1], nn.Flatten())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encoder.eval()(images), features(images))


def test_of_an_encoder_and_its_average_the_shorter_name_is_taken(trained: nn.Module) -> None:
    average = torchvision.models.resnet18(num_classes=10)
    state = prefixed("module.encoder_k_momentum.", average) | prefixed("module.encoder_q.", trained)
    assert find_encoder_weights(state, resnet("resnet18")).prefix == "module.encoder_q."


def test_counters_of_batches_may_be_missing(trained: nn.Module) -> None:
    state = {name: value for name, value in trained.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert find_encoder_weights(state, resnet("resnet18")).tensors["bn1.num_batches_tracked"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: {"weights": torch.ones(1)}, "none of its 1 tensors is called conv1.weight"),
        (lambda state: {name: value for name, value in state.items() if name != "bn1.bias"}, "bn1.bias is missing"),
        (
            lambda state: state | {"conv1.weight": torch.ones(64, 3, 3, 3)},
            "conv1.weight is of shape (64, 3, 3, 3)",
        ),
        (lambda state: torchvision.models.resnet34().state_dict(), "layer1.2.conv1.weight is one too many"),
    ],
)
def test_what_does_not_fit_is_named(change, said: str, trained: nn.Module) -> None:
    with pytest.raises(ValueError) as refusal:
        find_encoder_weights(change(trained.state_dict()), resnet("resnet18"))
    assert said in str(refusal.value)
