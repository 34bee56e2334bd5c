"""Checkpoint writer: writes a copy of a run's state in a thread while training continues."""

import threading
import warnings
from pathlib import Path
from typing import Any

import torch

from simsiam.pipeline.errors import RunError
from simsiam.train.run.checkpoint import save_checkpoint


class CheckpointWriter:
    """Writes checkpoints into `folder` in the background, one at a time.

    A failure, such as a full disk, is a warning: training continues, and earlier checkpoints are kept. `keep` and
    `keep_every_steps` are those of `save_checkpoint`.
    """

    def __init__(self, folder: Path, keep: int, keep_every_steps: int = 0) -> None:
        self._folder, self._keep, self._keep_every_steps = folder, keep, keep_every_steps
        self._thread: threading.Thread | None = None
        self._failure: str | None = None

    def start(self, snapshot: dict[str, Any], step: int) -> None:
        """Start writing a `snapshot`, which must not change from now on; waits for the write under way, if any."""
        self.close()
        # Not a daemon, so that a process that ends still finishes the file, unless it is killed.
        self._thread = threading.Thread(target=self._write, args=(snapshot, step), name="checkpoint writer")
        self._thread.start()

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk. Raises RunError if it could not be written."""
        self.close()
        if self._failure:
            raise RunError(
                f"{self._failure}. Make room, then resume from the checkpoint before.", argument="resume=auto"
            )

    def close(self) -> None:
        """Wait for the write under way, without raising if it fails."""
        if self._thread:
            self._thread.join()
            self._thread = None

    def _write(self, snapshot: dict[str, Any], step: int) -> None:
        try:
            save_checkpoint(snapshot, self._folder, step, self._keep, self._keep_every_steps)
            self._failure = None
        except Exception as error:
            told = error.strerror if isinstance(error, OSError) else str(error)
            first_line = (told or str(error)).partition("\n")[0]
            self._failure = f"The checkpoint of step {step} could not be written: {first_line}"
            warnings.warn(f"{self._failure}. Earlier checkpoints are kept.", stacklevel=2)


def snapshot(state: Any) -> Any:
    """Return a copy of nested dicts, lists and tuples, with every tensor copied to the CPU. Waits for the device."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state
