from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
import torchvision
import yaml
from rich.console import Console

from simsiam.pipeline.errors import UsageError
from simsiam.train import cli
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.initial_weights import read_initial_weights
from simsiam.train.learner import build_model
from simsiam.train.pretrain import pretrain
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.run.metrics import read_metrics

TinyConfig = Callable[..., PretrainConfig]


def test_run_starts_from_the_weights_of_another_and_resumes_without_them(
    tiny_config: TinyConfig, tiny_run: Path, run_dir: Path
) -> None:
    said = StringIO()
    config = tiny_config(run_dir, f"--init-from={tiny_run}", "--epochs=3", "--max-steps=6")
    pretrain(config, run_dir, Console(file=said))
    assert f"encoder, projector and predictor of {tiny_run}" in " ".join(said.getvalue().split())
    # At its start it is the finished run, and step and schedule are new.
    assert read_metrics(run_dir)[0]["knn"] == read_metrics(tiny_run)[-1]["knn"]
    assert [record["step"] for record in read_metrics(run_dir) if "loss" in record] == [5, 6]
    gone = replace(config, init_from=tiny_run / "gone", resume="auto", max_steps=8)
    assert pretrain(gone, run_dir, Console(file=StringIO()))["step"] == 8


def test_weights_are_the_other_runs_bit_for_bit(tiny_config: TinyConfig, tiny_run: Path) -> None:
    checkpoint = list_checkpoints(tiny_run / "checkpoints")[0]
    saved = load_checkpoint(checkpoint)["model"]
    model = build_model(tiny_config(Path("unused")))
    for path in (tiny_run, checkpoint):
        tensors = read_initial_weights(path, model).tensors
        assert tensors.keys() == saved.keys() == model.state_dict().keys()
        assert all(torch.equal(tensors[name], saved[name]) for name in saved)


def test_projector_of_another_shape_starts_anew_and_another_encoder_is_refused(
    tiny_config: TinyConfig, tiny_run: Path
) -> None:
    config = tiny_config(Path("unused"))
    wider = build_model(replace(config, model=replace(config.model, projection_dim=48)))
    weights = read_initial_weights(tiny_run, wider)
    assert {name.partition(".")[0] for name in weights.tensors} == {"encoder"} and "start anew" in weights.told
    deeper = build_model(replace(config, model=replace(config.model, arch="resnet34")))
    with pytest.raises(UsageError, match="resnet18"):
        read_initial_weights(tiny_run, deeper)


def test_another_programs_file_gives_the_encoder(tiny_config: TinyConfig, tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18()
    torch.save({"state_dict": {f"module.{name}": value for name, value in theirs.state_dict().items()}}, tmp_path / "a")
    weights = read_initial_weights(tmp_path / "a", build_model(tiny_config(Path("unused"))))
    name = "layer4.1.bn2.running_var"
    assert torch.equal(weights.tensors[f"encoder.{name}"], theirs.state_dict()[name])
    assert "without fc.bias, fc.weight" in weights.told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no file or run folder"),
        (b"not a checkpoint", "FILE"),
        ({"weights": torch.ones(2)}, "conv1.weight"),
        (torch.ones(2), "none of its 0 tensors"),
        ({"encoder": Path("code")}, "not opened"),
    ],
)
def test_file_without_an_encoder_is_one_sentence(
    content: object, said: str, tiny_config: TinyConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run_dir = tmp_path / "FILE", tmp_path / "run"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(to_tree(tiny_config(run_dir))))
    assert cli.run(["pretrain", str(settings), f"--init-from={file}"]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert said in sentence and str(file) in sentence
    assert not run_dir.exists()


def test_refusal_of_other_settings_names_the_way_that_exists(
    tiny_config: TinyConfig, tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["pretrain", str(tiny_run), "--epochs=4"]) == 2
    assert f"--init-from={tiny_run}" in capsys.readouterr().err
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(to_tree(tiny_config(tmp_path / "new", "--epochs=4"))))
    assert cli.run(["pretrain", str(settings), f"--resume={tiny_run}"]) == 2
    said = capsys.readouterr().err
    assert f"The run in {tiny_run} was started with other settings" in said and str(tmp_path / "new") not in said
    assert cli.run(["pretrain", str(settings), f"--resume={tiny_run}", f"--init-from={tiny_run}"]) == 2
