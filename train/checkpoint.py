"""State of a run ↔ files: atomic to write, safe to load, newest valid one first."""

import re
import warnings
from pathlib import Path
from typing import Any

import torch

from simsiam.pipeline.atomic_write import open_atomically
from simsiam.pipeline.errors import UsageError

_NAME = re.compile(r"step-(\d{9})\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:09d}.pt"


def save_checkpoint(state: dict[str, Any], folder: Path, step: int, keep: int) -> Path:
    """Write `state` so that a file under its final name is always whole, then delete all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = checkpoint_path(folder, step)
    with open_atomically(path) as file:
        torch.save(state, file)
    killed_while_writing = folder.glob("step-*.part")
    for old in [*list_checkpoints(folder)[keep:], *killed_while_writing]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU without running any code in it. Raises UsageError when it is damaged or foreign."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(
            f"The checkpoint {path} can't be read: {error.strerror}; give auto, never, a run folder or a .pt file."
        ) from None
    except Exception as error:  # a cut or overwritten zip raises whatever its reader stumbles over
        first_line = str(error).partition("\n")[0]
        raise UsageError(f"The checkpoint {path} is damaged or no checkpoint: {first_line}") from None
    if not isinstance(state, dict) or not {"model", "config", "step"} <= state.keys():
        raise UsageError(f"{path} is no checkpoint of simsiam; give one from a run's checkpoints folder.")
    return state


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Load the newest valid checkpoint, with a warning for every newer one that isn't; None if there is none."""
    for path in list_checkpoints(folder):
        try:
            return path, load_checkpoint(path)
        except ValueError as error:
            warnings.warn(f"{error} Going back to the one before.", stacklevel=2)
    return None
