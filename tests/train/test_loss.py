import pytest
import torch
from torch.nn import functional

from simsiam.train.config import ModelConfig, PretrainConfig
from simsiam.train.learner import build_model
from simsiam.train.loss import Objective, output_std

CONFIG = PretrainConfig(model=ModelConfig(arch="resnet18", projector_layers=2, projection_dim=32, prediction_hidden=8))
VIEWS = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_is_the_loss_and_the_mean_spread_of_what_the_model_returns() -> None:
    model = build_model(CONFIG).train()
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    output = Objective(model)(VIEWS)
    ((p1, p2, z1, z2),) = seen
    near = functional.cosine_similarity(p1, z2).mean() + functional.cosine_similarity(p2, z1).mean()
    assert output.loss.item() == pytest.approx(-near.item() / 2, abs=1e-6)
    spread = (functional.normalize(z1).std(0).mean() + functional.normalize(z2).std(0).mean()) / 2
    assert output.output_std.item() == pytest.approx(spread.item(), rel=1e-6)
    assert output.loss.requires_grad and not output.output_std.requires_grad


@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_to_one_graph_with_the_same_outcome(autocast: bool) -> None:
    torch.compiler.reset()
    outcomes = []
    for compiled in (False, True):
        model = build_model(CONFIG).train()
        objective = Objective(model)
        # The generated code of a CPU takes minutes to build; what is asked for here is the graph.
        call = torch.compile(objective, fullgraph=True, backend="aot_eager") if compiled else objective
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = call(VIEWS)
        output.loss.backward()
        assert {value.dtype for value in output} == {torch.float32}
        outcomes.append([*output, *(weight.grad for weight in model.parameters()), *model.buffers()])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("width", [4, 64, 512])
def test_spread_of_directions_without_preference(width: int) -> None:
    z = torch.randn(8192, width, generator=torch.Generator().manual_seed(0))
    assert output_std(z).item() == pytest.approx(width**-0.5, rel=0.02)
    assert output_std(100 * z).item() == pytest.approx(output_std(z).item(), rel=1e-5)


def test_spread_by_hand() -> None:
    # Four unit vectors: each channel holds 1, 0, 0, 0, whose standard deviation is ½.
    assert output_std(3 * torch.eye(4)).item() == pytest.approx(0.5, rel=1e-6)
    assert output_std(torch.tensor([[3.0, 4.0], [-3.0, -4.0]])).item() == pytest.approx(0.7 * 2**0.5, rel=1e-6)


def test_spread_of_a_collapsed_encoder_is_zero() -> None:
    assert output_std(torch.randn(1, 64).expand(128, 64)).item() == pytest.approx(0, abs=1e-6)
    # The same direction at any length is collapsed, too.
    assert output_std(torch.arange(1.0, 9.0)[:, None] * torch.ones(8, 16)).item() == pytest.approx(0, abs=1e-6)


def test_spread_of_half_precision_is_measured_in_float32() -> None:
    z = torch.randn(4096, 2048, generator=torch.Generator().manual_seed(0)).bfloat16()
    spread = output_std(z)
    assert spread.dtype == torch.float32
    assert spread.item() == pytest.approx(2048**-0.5, rel=0.01)
