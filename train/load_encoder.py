"""Load a trained encoder: from a run folder, or from one of its checkpoints."""

from pathlib import Path
from typing import Any

from simsiam.model.resnet import ResNet, resnet
from simsiam.train.run.checkpoint import open_checkpoint


def load_encoder(checkpoint: Path) -> tuple[ResNet, dict[str, Any]]:
    """Return the encoder of a checkpoint, or of a run folder's newest one, and the run's configuration as a tree.

    Raises UsageError when there is none, or it is damaged.
    """
    _, state = open_checkpoint(checkpoint)
    model = state["config"]["model"]
    encoder = resnet(model["arch"], model["stem"])
    prefix = "encoder."
    encoder.load_state_dict(
        {name.removeprefix(prefix): value for name, value in state["model"].items() if name.startswith(prefix)}
    )
    return encoder, state["config"]
