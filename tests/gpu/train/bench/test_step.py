"""The rows of `simsiam bench step` on a GPU, each in a process of its own."""

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("PyTorch sees no GPU", allow_module_level=True)

from simsiam.train.bench.rows import StepRowName
from simsiam.train.bench.step import bench_steps
from simsiam.train.config import DataConfig, ModelConfig, PretrainConfig

ROWS: tuple[StepRowName, ...] = ("ours", "ours-fused", "ours-graphed", "ours-compiled", "baseline", "baseline-amp")


@pytest.mark.timeout(400)
def test_every_row_has_stages_memory_and_the_memory_bound() -> None:
    config = PretrainConfig(
        batch_size=64,
        precision="bf16",
        model=ModelConfig("resnet18", "cifar", projection_dim=64, prediction_hidden=16),
        data=DataConfig(size=32),
    )
    results = {result["name"]: result for result in bench_steps(config, ROWS, seconds=1.0, rounds=2)}
    assert tuple(results) == ROWS
    for name, result in results.items():
        stages = list(result["stage_milliseconds"])
        assert stages[0] == "copy" and stages[1:] == (["step"] if name == "ours-graphed" else stages[1:]), name
        assert result["device"] == "cuda" and result["images_per_second"] > 0
        assert 0 < result["peak_device_memory_mib"] < 4096, "what was measured before the rounds counts as well"
        assert 0 < result["percent_of_memory_bound"] < 100
    assert results["baseline"]["precision"] == "fp32, convolutions in tf32"
