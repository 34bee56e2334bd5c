import pytest
import torch
from torch import nn

from simsiam.kernels.negative_cosine import negative_cosine
from simsiam.model.resnet import resnet
from simsiam.model.simsiam import SimSiam


def small(views: int = 2) -> SimSiam:
    torch.manual_seed(0)
    encoder = resnet("resnet18", "cifar")
    return SimSiam(encoder, projection_dim=32, prediction_hidden=8, projector_layers=2, views=views)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_resnet50_has_the_parameters_of_the_reference() -> None:
    with torch.device("meta"):
        model = SimSiam(resnet("resnet50"))
    assert parameters(model.encoder) == 23_508_032
    assert parameters(model.projector) == 12_591_104
    assert parameters(model.predictor) == 2_100_224
    assert parameters(model) == 38_199_360


def test_resnet18_for_cifar_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        model = SimSiam(resnet("resnet18", "cifar"), projector_layers=2)
    assert parameters(model.encoder) == 11_168_832
    assert parameters(model.projector) == 5_246_976
    assert parameters(model) == 18_516_032


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_projector_has_relu_between_its_layers_and_plain_batch_norm_at_the_end(layers: int) -> None:
    with torch.device("meta"):
        model = SimSiam(resnet("resnet18"), projector_layers=layers)
    kinds = [type(module).__name__ for module in model.projector]
    inner = ["Linear", "PerViewBatchNorm1d", "ReLU"]
    assert kinds == inner * (layers - 1) + ["Linear", "PerViewBatchNorm1d"]
    assert list(dict(model.projector[-1].named_parameters())) == []
    assert all(module.bias is None for module in model.projector if isinstance(module, nn.Linear))


def test_predictor_is_a_bottleneck_with_a_bias_and_nothing_else_on_its_output() -> None:
    with torch.device("meta"):
        predictor = SimSiam(resnet("resnet18"), projection_dim=64, prediction_hidden=16).predictor
    assert {name: tuple(parameter.shape) for name, parameter in predictor.named_parameters()} == {
        "0.weight": (16, 64),
        "1.weight": (16,),
        "1.bias": (16,),
        "3.weight": (64, 16),
        "3.bias": (64,),
    }
    assert isinstance(predictor[2], nn.ReLU)
    assert len(predictor) == 4


def test_outputs_belong_to_their_views() -> None:
    model = small().double().eval()  # in float32 batches of two sizes may round differently
    first, second = images(3, seed=1).double(), images(3, seed=2).double()
    with torch.no_grad():
        p1, p2, z1, z2 = model(torch.cat([first, second]))
        for view, p, z in ((first, p1, z1), (second, p2, z2)):
            projection = model.projector(model.encoder(view))
            torch.testing.assert_close(z, projection)
            torch.testing.assert_close(p, model.predictor(projection))
    assert not torch.allclose(p1, p2)


def test_projections_of_each_view_are_standardised_in_training() -> None:
    output = small().double()(images(16).double())
    for z in (output.z1, output.z2):
        assert z.mean(dim=0).abs().max() < 1e-10
        # Short of 1 by the epsilon that batch norm adds to the variance.
        torch.testing.assert_close(z.var(dim=0, correction=0), torch.ones(32).double(), rtol=1e-2, atol=0)


def test_one_statistics_group_joins_the_views() -> None:
    output = small(views=1).double()(images(16).double())
    assert torch.cat([output.z1, output.z2]).mean(dim=0).abs().max() < 1e-10
    assert output.z1.mean(dim=0).abs().max() > 1e-2


def test_gradient_reaches_all_parameters_through_the_predictions_alone() -> None:
    model = small()
    output = model(images(8))
    assert not output.z1.requires_grad
    assert not output.z2.requires_grad
    loss = negative_cosine(*output)
    assert -1 <= loss.item() <= 1
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.encoder.conv1.weight.grad is not None
    assert model.encoder.conv1.weight.grad.abs().max() > 0


def test_a_few_steps_lower_the_loss() -> None:
    model, views = small(), images(16)[:, :, :8, :8]
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = negative_cosine(*model(views))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1


def test_an_odd_number_of_images_is_refused_in_evaluation_too() -> None:
    with pytest.raises(ValueError, match="batch of 5 images is not two views"):
        small().eval()(images(5))


@pytest.mark.parametrize("views", [1, 2, 4])
def test_every_batch_norm_keeps_as_many_views_apart_the_encoders_included(views: int) -> None:
    norms = [module for module in small(views).modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 20 + 2 + 1
    assert {norm.views for norm in norms} == {views}


@pytest.mark.parametrize("name", ["projection_dim", "prediction_hidden", "projector_layers", "views"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=f"{name} is 0"):
        SimSiam(resnet("resnet18"), **{name: 0})
