"""Load a trained encoder: from a run folder, or from one of its checkpoints."""

from pathlib import Path
from typing import Any

from simsiam.model.resnet import ResNet, resnet
from simsiam.pipeline.paths import expand_home
from simsiam.train.run.checkpoint import open_checkpoint

_PREFIX = "encoder."


def load_encoder(path: str | Path) -> ResNet:
    """Return the trained encoder of a run folder, its newest checkpoint's, or of one checkpoint; on the CPU.

    Images (n, 3, height, width), normalised as in the run, → features (n, encoder.feature_dim). It is in evaluation
    mode; its batch norm is plain, so that fine-tuning, after `encoder.train()`, normalises over the whole batch.

    Raises UsageError when there is no checkpoint, or it is damaged.
    """
    encoder, _ = load_encoder_and_config(path)
    return encoder


def load_encoder_and_config(path: str | Path) -> tuple[ResNet, dict[str, Any]]:
    """Return the same encoder, and the configuration of its run as a tree of plain values."""
    _, state = open_checkpoint(expand_home(path))
    model = state["config"]["model"]
    encoder = resnet(model["arch"], model["stem"])
    encoder.load_state_dict(
        {name.removeprefix(_PREFIX): value for name, value in state["model"].items() if name.startswith(_PREFIX)}
    )
    return encoder.eval(), state["config"]
