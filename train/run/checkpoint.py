"""State of a run ↔ files: atomic to write, checked and safe to load, newest valid one first."""

import itertools
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from simsiam.pipeline.atomic_write import open_atomically
from simsiam.pipeline.errors import UsageError

FORMAT = 2
"""Number of the layout of a state; to be raised when an older one can't be gone on from."""

WHAT_TO_GIVE = "a run folder, or a .pt file of its folder checkpoints"

_NAME = re.compile(r"step-(\d{9})\.pt")


class DamagedCheckpoint(UsageError):
    """The file is cut, has changed since it was written, or can't be read."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:09d}.pt"


def save_checkpoint(state: dict[str, Any], folder: Path, step: int, keep: int, keep_every_steps: int = 0) -> Path:
    """Write `state` so that a file under its final name is always whole, then delete old ones.

    What stays are the newest `keep`, and those of every multiple of `keep_every_steps` steps (0: none).
    """
    path = checkpoint_path(folder, step)
    with open_atomically(path) as file:
        torch.save({"format": FORMAT, **state}, file)
    for old in list_checkpoints(folder)[keep:]:
        if not keep_every_steps or _step_of(old) % keep_every_steps:
            old.unlink(missing_ok=True)
    return path


def set_aside(folder: Path, after_step: int) -> Path | None:
    """Move the checkpoints after `after_step` into a folder of their own, and return it; None if there are none.

    A run that goes on from there must not find them again, nor may they count as its newest.
    """
    later = [path for path in list_checkpoints(folder) if _step_of(path) > after_step]
    if not later:
        return None
    # A folder of its own each time: nothing that was set aside before is written over.
    numbers = itertools.count(1)
    place = next(each for number in numbers if not (each := folder / f"later-than-{after_step:09d}-{number}").exists())
    place.mkdir()
    for path in later:
        path.replace(place / path.name)
    return place


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU without running any code in it.

    Raises DamagedCheckpoint, or UsageError when the file is foreign or of another version of simsiam.
    """
    try:
        # Anything else torch.load takes for a format of old, and recommends to load it unsafely.
        with path.open("rb") as file:
            is_zip = zipfile.is_zipfile(file)
        if not is_zip:
            raise DamagedCheckpoint(f"The checkpoint {path} is cut short, or it is none.")
        record = _damaged_record(path)
        state = torch.load(path, map_location="cpu", weights_only=True) if record is None else None
    except DamagedCheckpoint:
        raise
    except OSError as error:
        raise DamagedCheckpoint(f"The checkpoint {path} can't be read: {error.strerror}.") from None
    except pickle.UnpicklingError:
        # PyTorch's message recommends to run whatever code is in it.
        raise DamagedCheckpoint(
            f"The checkpoint {path} holds more than tensors, numbers and text, and is not opened: it is none of ours,"
            " or was changed."
        ) from None
    except Exception as error:  # a cut or overwritten zip raises whatever its reader stumbles over
        first_line = str(error).partition("\n")[0]
        raise DamagedCheckpoint(f"The checkpoint {path} is damaged: {first_line}.") from None
    if record is not None:
        raise DamagedCheckpoint(f"The checkpoint {path} is damaged: {record} has changed since it was written.")
    if not isinstance(state, dict) or not {"model", "config", "step"} <= state.keys():
        raise UsageError(f"{path} is no checkpoint of simsiam; give {WHAT_TO_GIVE}.")
    if state.get("format") != FORMAT:
        raise UsageError(
            f"The checkpoint {path} has format {state.get('format')}, and this version of simsiam reads {FORMAT}:"
            " use the version that wrote it, or train again in another run folder."
        )
    return state


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Load the newest valid checkpoint, with a warning for every newer damaged one; None if the folder has none.

    Raises UsageError when all are damaged, or when the newest whole one is of another version of simsiam.
    """
    checkpoints = list_checkpoints(folder)
    for path in checkpoints:
        try:
            return path, load_checkpoint(path)
        except DamagedCheckpoint as error:
            warnings.warn(f"{error} Going back to the one before.", stacklevel=2)
    if checkpoints:
        raise UsageError(f"No checkpoint in {folder} is whole; train again in another run folder.")
    return None


def open_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """Load a checkpoint, or the newest valid one of a run folder; returns its path, too.

    Raises UsageError when there is none, and what `load_checkpoint` and `newest_checkpoint` raise.
    """
    if not path.is_dir():
        try:
            return path, load_checkpoint(path)
        except DamagedCheckpoint as error:
            raise UsageError(f"{error} Give {WHAT_TO_GIVE}.") from None
    found = newest_checkpoint(path if list_checkpoints(path) else path / "checkpoints")
    if found is None:
        raise UsageError(f"There is no checkpoint in {path / 'checkpoints'}; give {WHAT_TO_GIVE}.")
    return found


def _damaged_record(path: Path) -> str | None:
    """Compare each record with the CRC-32 that PyTorch writes beside it, but does not look at when it loads.

    Returns the name of the first that differs.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
