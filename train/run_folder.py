"""Configuration → the folder a run lives in: new, or one to go on from."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from simsiam.train.checkpoint import list_checkpoints, load_checkpoint, newest_checkpoint
from simsiam.train.config import PretrainConfig, identity_differences, to_tree
from simsiam.train.environment import describe_environment
from simsiam.train.metrics import read_metrics


class RunFolder(NamedTuple):
    """An opened run folder."""

    path: Path
    state: dict[str, Any] | None
    """The checkpoint to go on from, or None for a new run."""
    resumed_from: Path | None

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self.path / "checkpoints"


def open_run_folder(config: PretrainConfig, default: Path) -> RunFolder:
    """Create or reopen the run folder and write `config.yaml` and `environment.json` into it.

    Raises ValueError when the folder holds another run, or the checkpoint was made with other settings.
    """
    path = config.run_dir or default
    path_in_use = bool(read_metrics(path) or list_checkpoints(path / "checkpoints"))
    state, resumed_from = None, None
    if config.resume == "auto":
        resumed_from, state = newest_checkpoint(path / "checkpoints") or (None, None)
    elif config.resume == "never":
        if path_in_use:
            raise ValueError(
                f"The run folder {path} is already in use: give --resume auto to go on, or another --run-dir."
            )
    else:
        resumed_from = Path(config.resume).expanduser()
        state = load_checkpoint(resumed_from)
        if path_in_use and path.resolve() not in resumed_from.resolve().parents:
            raise ValueError(
                f"The run folder {path} is already in use by another run than {resumed_from}; give another --run-dir."
            )
    if state is not None:
        differences = identity_differences(state["config"], to_tree(config))
        if differences:
            raise ValueError(
                f"The run in {path} was started with other settings ({'; '.join(differences)}):"
                " give the same ones to go on, or another --run-dir to start anew."
            )
    try:
        path.mkdir(parents=True, exist_ok=True)
        repeatable = dataclasses.replace(config, run_dir=None, resume="never")
        write_atomically(path / "config.yaml", yaml.safe_dump(to_tree(repeatable), sort_keys=False))
        write_atomically(path / "environment.json", json.dumps(describe_environment(), indent=2) + "\n")
    except OSError as error:
        raise ValueError(f"The run folder {path} can't be written: {error.strerror}. Give another --run-dir.") from None
    return RunFolder(path, state, resumed_from)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file under a temporary name, flush it and rename it."""
    partial = path.with_name(f"{path.name}.part")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
