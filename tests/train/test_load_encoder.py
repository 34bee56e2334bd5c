from pathlib import Path

import pytest
import torch
from torch import nn

from simsiam.train.load_encoder import load_encoder, load_encoder_and_config
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint


def test_encoder_comes_from_a_run_or_a_file(tiny_run: Path) -> None:
    newest, older = list_checkpoints(tiny_run / "checkpoints")
    for named, expected in ((tiny_run, newest), (newest, newest), (older, older)):
        encoder, config = load_encoder_and_config(named)
        assert config["data"]["size"] == 16
        state = load_checkpoint(expected)["model"]
        weights = encoder.state_dict()
        assert {f"encoder.{name}" for name in weights} == {name for name in state if name.startswith("encoder.")}
        assert all(torch.equal(value, state[f"encoder.{name}"]) for name, value in weights.items())


def test_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no checkpoint in .*checkpoints; give a run folder, or a \.pt file"):
        load_encoder(tmp_path)


def test_encoder_is_plain_and_takes_any_number_of_images(tiny_run: Path) -> None:
    encoder = load_encoder(str(tiny_run))
    assert not encoder.training
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.views for norm in norms} == {1}
    assert encoder.train()(torch.randn(5, 3, 32, 32)).shape == (5, encoder.feature_dim)
