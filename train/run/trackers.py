"""Trackers: send a run's records and pictures to TensorBoard and Weights & Biases, if configured."""

import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from simsiam.pipeline.atomic_write import write_text_atomically
from simsiam.pipeline.errors import MissingError, UsageError
from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.interruption import Interrupted


class Tracker(Protocol):
    """A program that shows records and pictures of a run."""

    def show(self, record: dict[str, Any]) -> None:
        """Show a line of metrics.jsonl."""
        ...

    def show_picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Show pixels, uint8 RGB (height, width, 3), under a name such as `neighbours`."""
        ...

    def close(self) -> None:
        """Send or write what is left."""
        ...


def check_trackers(config: PretrainConfig) -> None:
    """Raise MissingError when a configured tracker isn't installed."""
    if config.log.wandb is None:
        return
    found = find_spec("wandb")
    if (
        found is None or found.origin is None
    ):  # without an origin it is only a folder `wandb`, which wandb itself creates
        raise MissingError("log.wandb needs the package wandb, which isn't installed: pip install wandb.")


def open_trackers(config: PretrainConfig, run_dir: Path, after_step: int) -> list[Tracker]:
    """Open the trackers in `config.log`, to continue after `after_step`."""
    trackers: list[Tracker] = []
    if config.log.tensorboard:
        trackers.append(TensorBoard(run_dir, after_step))
    if config.log.wandb is not None:
        trackers.append(WeightsAndBiases(config.log.wandb, run_dir, config))
    return trackers


class TensorBoard:
    """Writes to the folder `tensorboard` of a run; records there after `after_step` are hidden.

    Raises UsageError if the folder can't be written.
    """

    def __init__(self, run_dir: Path, after_step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second to import

        try:
            self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=after_step + 1)
        except OSError as error:
            raise UsageError(
                f"TensorBoard can't write to {run_dir / 'tensorboard'}: {error.strerror}. Make room for it, or switch"
                " log.tensorboard off."
            ) from None

    def show(self, record: dict[str, Any]) -> None:
        """Show a line of metrics.jsonl."""
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, record["step"])

    def show_picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Show pixels, uint8 RGB (height, width, 3)."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """Sends to a project of Weights & Biases; WANDB_MODE=offline keeps it in the folder `wandb` of the run.

    A resumed run resumes there, too: its id is in the file `wandb_id`. Raises UsageError without a login or a reachable
    server.
    """

    def __init__(self, project: str, run_dir: Path, config: PretrainConfig) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self._wandb, file = wandb, run_dir / "wandb_id"
        if not file.exists():
            write_text_atomically(file, uuid.uuid4().hex)
        try:
            self._run = wandb.init(
                project=project,
                name=run_dir.resolve().name,
                dir=str(run_dir),
                id=file.read_text(),
                resume="allow",
                config=to_tree(config),
            )
        except wandb.Error as error:
            raise UsageError(
                f"Weights & Biases can't be used: {str(error).rstrip('.')}. Where `wandb login` can't help, keep the"
                " records here with WANDB_MODE=offline, or train without it.",
                argument="log.wandb",
            ) from error
        # A resumed run repeats the steps after its checkpoint, which wandb's own step counter would refuse.
        self._run.define_metric("*", step_metric="step")

    def show(self, record: dict[str, Any]) -> None:
        """Send a line of metrics.jsonl."""
        self._run.log(record)

    def show_picture(self, name: str, pixels: npt.NDArray[np.uint8], step: int) -> None:
        """Send pixels, uint8 RGB (height, width, 3)."""
        self._run.log({"step": step, name: self._wandb.Image(pixels)})

    def close(self) -> None:
        """Send what is left, and wait for it; a run that ended with an error is marked as failed."""
        error = sys.exc_info()[1]
        self._run.finish(exit_code=int(error is not None and not isinstance(error, Interrupted)))
