"""Initial weights: what a new run takes over from a model that has been trained before, by whatever program."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from simsiam.model.encoder_weights import find_encoder_weights
from simsiam.model.simsiam import SimSiam
from simsiam.pipeline.errors import UsageError
from simsiam.pipeline.paths import expand_home
from simsiam.train.run.checkpoint import open_checkpoint

_ENCODER = "encoder."


class InitialWeights(NamedTuple):
    """Tensors for a model that is about to be trained."""

    tensors: dict[str, Tensor]
    """By the names in the model's state."""
    told: str
    """What they are and where they are from, for the user."""


def read_initial_weights(path: Path, model: SimSiam) -> InitialWeights:
    """Read the weights of a run folder, of one of its checkpoints, or of another program's file, for `model`.

    Of a run, projector and predictor are taken as well if they are of the same shapes; of another program's file, the
    encoder alone, found by `find_encoder_weights`. No code in the file is executed.

    Raises UsageError when there is no such file, or the encoder is another one.
    """
    path = expand_home(path)
    if path.is_dir():
        return _of_a_run(path, model)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"There is no file or run folder {path}.", argument="init_from") from None
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path} holds more than tensors, numbers and text, or is no checkpoint, so it is not opened: save its"
            " state_dict alone.",
            argument="init_from",
        ) from None
    except Exception as error:  # a truncated file raises errors of any class
        first_line = str(error).partition("\n")[0]
        raise UsageError(f"{path} can't be read as a checkpoint: {first_line}.", argument="init_from") from None
    if isinstance(state, Mapping) and {"model", "config", "step"} <= state.keys():
        return _of_a_run(path, model)
    try:
        found = find_encoder_weights(state if isinstance(state, Mapping) else {}, model.encoder)
    except ValueError as error:
        raise UsageError(f"{path} has no weights for this encoder: {error}.", argument="init_from") from None
    unused = f", without {', '.join(found.unused)}" if found.unused else ""
    return InitialWeights(
        {_ENCODER + name: value for name, value in found.tensors.items()},
        f"encoder of {path}{unused}; projector and predictor start anew",
    )


def _of_a_run(path: Path, model: SimSiam) -> InitialWeights:
    file, state = open_checkpoint(path)
    saved, wanted = state["model"], model.state_dict()
    same = {name for name, value in wanted.items() if name in saved and saved[name].shape == value.shape}
    if missing := [name for name in wanted if name.startswith(_ENCODER) and name not in same]:
        was = state["config"]["model"]
        raise UsageError(
            f"The encoder of {file} is a {was['arch']} with {was['stem']} stem, and differs in {missing[0]}; give the"
            " same one.",
            argument="model.arch",
        )
    if same == wanted.keys() == saved.keys():
        return InitialWeights(saved, f"encoder, projector and predictor of {file}")
    encoder = {name: value for name, value in saved.items() if name.startswith(_ENCODER)}
    return InitialWeights(encoder, f"encoder of {file}; projector and predictor, of other shapes, start anew")
