"""Resume: what a checkpoint holds of a run, and how a run goes back to it, in the middle of an epoch as well.

Nothing of the loader is saved: order and augmentation are a pure function of seed, epoch and image, so the step alone
says where an epoch continues. The loop asks for `loader.epoch(run.epoch, first_step=run.step_in_epoch)`.
"""

from typing import TYPE_CHECKING, Any

from simsiam.train.config import to_tree
from simsiam.train.learner import Learner

if TYPE_CHECKING:
    from simsiam.train.run.training_run import TrainingRun


def checkpoint_state(run: "TrainingRun", learner: Learner, replaced_images: int) -> dict[str, Any]:
    """Return all that a run needs to end with the same bits as if it had never stopped; the tensors are live ones."""
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


def restore(run: "TrainingRun", learner: Learner, state: dict[str, Any]) -> None:
    """Bring a run and its learner to the state of a checkpoint."""
    learner.load_state_dict(state)
    run.window.load_state_dict(state["window"])
    run.step = state["step"]
    run.replaced_before = state.get("replaced_images", 0)  # the first versions didn't save it
