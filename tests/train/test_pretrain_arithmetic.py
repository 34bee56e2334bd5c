"""Whole runs with options that change how the network computes, and must not change what it becomes."""

import dataclasses
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from simsiam.pipeline.errors import UsageError
from simsiam.train.config import KnnConfig, PretrainConfig
from simsiam.train.pretrain import pretrain
from simsiam.train.run.checkpoint import list_checkpoints, load_checkpoint
from simsiam.train.run.metrics import read_metrics

TinyConfig = Callable[..., PretrainConfig]


def train(config: PretrainConfig) -> dict[str, Any]:
    assert config.run_dir
    return pretrain(config, config.run_dir, Console(file=StringIO()))


def final_state(run_dir: Path) -> dict[str, Any]:
    return load_checkpoint(list_checkpoints(run_dir / "checkpoints")[0])


def losses(run_dir: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run_dir) if "loss" in record]


def assert_same_weights(run: Path, other: Path) -> None:
    ours, theirs = final_state(run)["model"], final_state(other)["model"]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_recompute_changes_no_bit_of_a_run(tiny_config: TinyConfig, run_dir: Path, tiny_run: Path) -> None:
    train(tiny_config(run_dir, "--recompute", "--knn.every-epochs=0"))
    assert losses(run_dir) == losses(tiny_run)
    assert_same_weights(run_dir, tiny_run)


def test_fp16_run_goes_on_bit_for_bit_with_the_scale_it_had(tiny_config: TinyConfig, run_dir: Path) -> None:
    options = "--precision=fp16", "--log.every-steps=1", "--batch-size=4", "--max-steps=4"
    whole = dataclasses.replace(tiny_config(run_dir / "whole", *options), knn=KnnConfig())
    train(whole)
    parts = dataclasses.replace(whole, run_dir=run_dir / "parts", resume="auto", max_steps=2)
    train(parts)
    train(dataclasses.replace(parts, max_steps=4))
    assert losses(run_dir / "parts") == losses(run_dir / "whole")
    assert_same_weights(run_dir / "parts", run_dir / "whole")
    states = [final_state(run_dir / run) for run in ("whole", "parts")]
    assert states[0]["scaler"] == states[1]["scaler"] != {}
    record = read_metrics(run_dir / "whole")[-1]
    assert (record["loss_scale"], record["skipped_steps"]) == (states[0]["scaler"]["scale"], 0)


def test_cuda_graph_is_refused_on_a_cpu_before_anything_is_written(tiny_config: TinyConfig, run_dir: Path) -> None:
    with pytest.raises(UsageError, match="CUDA graph needs a GPU"):
        train(tiny_config(run_dir, "--cuda-graph"))
    assert not run_dir.exists()
