"""Encoder weights in another program's checkpoint: found by the names that torchvision's ResNet gives them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_NESTED = ("state_dict", "model", "teacher", "student")
"""Where files keep their tensors, if not at the top: most trainers', DeiT's, DINO's."""
_FIRST = "conv1.weight"
_COUNTER = "num_batches_tracked"


class EncoderWeights(NamedTuple):
    """An encoder's tensors, by the encoder's names, and what else there was."""

    tensors: dict[str, Tensor]
    prefix: str
    """What the file writes before each name: `module.encoder.`."""
    unused: list[str]
    """Names of tensors with this prefix that the encoder lacks, such as `fc.weight`."""


def find_encoder_weights(state: Mapping[str, Any], encoder: nn.Module) -> EncoderWeights:
    """Find the weights of `encoder`, a ResNet, in the content of a file, whatever prefix its names have.

    The names behind the prefix are torchvision's, as in checkpoints of the authors, of MoCo and of OpenMMLab. If
    several prefixes fit, such as a momentum encoder's, the shortest name is taken.

    Raises ValueError, which says what is missing or differs, when no prefix fits.
    """
    for name in _NESTED:
        if isinstance(state.get(name), Mapping):
            state = state[name]
            break
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    prefixes = sorted(
        (name.removesuffix(_FIRST) for name in tensors if name.endswith(_FIRST)), key=lambda p: (len(p), p)
    )
    wanted = encoder.state_dict()
    problems = []
    for prefix in (prefix for prefix in prefixes if not prefix or prefix.endswith(".")):
        there = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        found = _difference(there, wanted)
        if found is None:
            # Old files lack the counters; one batch at least was seen.
            counters = {name: torch.ones_like(value) for name, value in wanted.items() if name.endswith(_COUNTER)}
            weights = counters | {name: there[name] for name in wanted if name in there}
            return EncoderWeights(weights, prefix, sorted(there.keys() - wanted.keys()))
        problems.append(f"with the prefix {prefix!r}, {found}")
    # Blocks have a conv1, too; their prefixes are longer.
    raise ValueError([*problems, f"none of its {len(tensors)} tensors is called {_FIRST}, with any prefix"][0])


def _difference(there: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    for name, value in wanted.items():
        if name.endswith(_COUNTER):
            continue
        if name not in there:
            return f"{name} is missing"
        if there[name].shape != value.shape:
            return f"{name} is of shape {tuple(there[name].shape)}, not {tuple(value.shape)}"
    stages = {name.partition(".")[0] for name in wanted}
    if deeper := [name for name in there if name not in wanted and name.partition(".")[0] in stages]:
        return f"{deeper[0]} is one too many: it is another ResNet"
    return None
