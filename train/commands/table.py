"""The name of a command → its line in `simsiam --help`, and its module.

A command is one file of this folder and one line of the table. The file has the command's name, with underscores, and
holds `run(arguments, prog) -> exit code`; what it needs it imports itself, so that `simsiam --help` does not wait for
torch.
"""

import importlib
from collections.abc import Sequence

COMMANDS: dict[str, str] = {
    "doctor": "what this machine has, what is missing, and how to get it",
    "demo": "the whole job in a few minutes, on images made for it",
    "convert": "image folder or archives → .beton",
    "verify": "decode everything, list what is broken",
    "preview": "originals, crops and augmented views side by side",
    "pretrain": "train an encoder: the main job",
    "evaluate knn": "accuracy of nearest neighbours in a frozen encoder's features",
    "bench loader": "images per second of the loader backends",
    "bench convert": "images per second of convert, beside FFCV's own writer",
    "bench step": "a training step, stage by stage, beside the usual one",
    "bench train": "training from images to weights, beside the usual one",
    "bench kernels": "what the fused operations take, checked first",
    "plot": "curves of one or several runs as PNG",
}
"""Every command by its one or two words, in the order a newcomer meets them."""


def run_command(name: str, arguments: Sequence[str]) -> int:
    """Run a command of the table with its arguments and return the exit code."""
    module = importlib.import_module(f"simsiam.train.commands.{name.replace(' ', '_').replace('-', '_')}")
    return module.run(arguments, prog=f"simsiam {name}")
