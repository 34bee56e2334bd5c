"""Resume: the state of a run in a checkpoint, and how to restore it, also in the middle of an epoch.

Nothing of the loader is saved: order and augmentation are a pure function of seed, epoch and image, so the step alone
says where an epoch continues. The loop asks for `loader.epoch(run.epoch, first_step=run.step_in_epoch)`.
"""

from typing import Any, Protocol

from simsiam.train.config import PretrainConfig, to_tree
from simsiam.train.learner import Learner
from simsiam.train.run.folder import RunFolder
from simsiam.train.run.metrics import StepWindow


class ResumableRun(Protocol):
    """The part of a `TrainingRun` that a checkpoint stores."""

    config: PretrainConfig
    folder: RunFolder
    window: StepWindow
    step: int
    replaced_before: int


def checkpoint_state(run: ResumableRun, learner: Learner, replaced_images: int) -> dict[str, Any]:
    """Return what a run needs to end with the same bits as without a stop; the tensors are live, not copies."""
    learned = learner.state_dict()
    return {
        "config": to_tree(run.config),
        "images": run.folder.images,
        "step": run.step,
        "model": learned["model"],
        "optimizer": learned["optimizer"],
        "scaler": learned["scaler"],
        "window": run.window.state_dict(),
        "health": learned["health"],
        "replaced_images": replaced_images,
    }


def restore(run: ResumableRun, learner: Learner, state: dict[str, Any]) -> None:
    """Restore a run and its learner from the state in a checkpoint."""
    learner.load_state_dict(state)
    run.window.load_state_dict(state["window"])
    run.step = state["step"]
    run.replaced_before = state.get("replaced_images", 0)  # the first versions didn't save it
