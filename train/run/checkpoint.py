"""Checkpoints: the state of a run as files, written atomically, checked when loaded; the newest valid one is found."""

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
"""Version of the layout of a state; raised when older states can't be resumed."""

WHAT_TO_GIVE = "a run folder, or a .pt file of its folder checkpoints"

_NAME = re.compile(r"step-(\d{9})\.pt")


class DamagedCheckpoint(UsageError):
    """The file is truncated, has changed since it was written, or can't be read."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint after `step` steps."""
    return folder / f"step-{step:09d}.pt"


def save_checkpoint(state: dict[str, Any], folder: Path, step: int, keep: int, keep_every_steps: int = 0) -> Path:
    """Write `state` atomically, then delete old checkpoints.

    Kept are the newest `keep`, and those at multiples of `keep_every_steps` steps (0: none).
    """
    path = checkpoint_path(folder, step)
    with open_atomically(path) as file:
        torch.save({"format": FORMAT, **state}, file)
    for old in list_checkpoints(folder)[keep:]:
        if not keep_every_steps or _step_of(old) % keep_every_steps:
            old.unlink(missing_ok=True)
    return path


def set_aside(folder: Path, after_step: int) -> Path | None:
    """Move the checkpoints after `after_step` into a new folder, and return it; None if there are none.

    A run that resumes at `after_step` must not take them for its newest.
    """
    later = [path for path in list_checkpoints(folder) if _step_of(path) > after_step]
    if not later:
        return None
    # A new folder each time, so that nothing set aside before is overwritten.
    numbers = itertools.count(1)
    aside = next(each for number in numbers if not (each := folder / f"later-than-{after_step:09d}-{number}").exists())
    aside.mkdir()
    for path in later:
        path.replace(aside / path.name)
    return aside


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    return sorted((path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)), reverse=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint to the CPU without executing code from it.

    Raises DamagedCheckpoint; UsageError when the file is foreign or of another version of simsiam.
    """
    try:
        # torch.load takes any other file for its old format, and recommends to load it unsafely.
        with path.open("rb") as file:
            is_zip = zipfile.is_zipfile(file)
        if not is_zip:
            raise DamagedCheckpoint(f"The checkpoint {path} is truncated, or is no checkpoint.")
        record = _damaged_record(path)
        state = torch.load(path, map_location="cpu", weights_only=True) if record is None else None
    except DamagedCheckpoint:
        raise
    except OSError as error:
        raise DamagedCheckpoint(f"The checkpoint {path} can't be read: {error.strerror}.") from None
    except pickle.UnpicklingError:
        # PyTorch's message recommends to execute the code in it.
        raise DamagedCheckpoint(
            f"The checkpoint {path} holds more than tensors, numbers and text, so it is not opened: it is not from"
            " simsiam, or was changed."
        ) from None
    except Exception as error:  # a truncated or overwritten zip raises errors of any class
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
    """Load the newest valid checkpoint, and warn of every newer damaged one; None if the folder has none.

    Raises UsageError when all are damaged, or when the newest valid one is of another version of simsiam.
    """
    checkpoints = list_checkpoints(folder)
    for path in checkpoints:
        try:
            return path, load_checkpoint(path)
        except DamagedCheckpoint as error:
            warnings.warn(f"{error} Trying the one before.", stacklevel=2)
    if checkpoints:
        raise UsageError(f"All checkpoints in {folder} are damaged; train again in another run folder.")
    return None


def open_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """Load a checkpoint, or the newest valid one of a run folder; return its path and state.

    Raises UsageError when there is none or it is damaged, and what `newest_checkpoint` raises.
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
    """Check each record against the CRC-32 that PyTorch writes with it but ignores when loading.

    Returns the name of the first record that differs, or None.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
