"""Health checks of a run: skipped steps and collapsed outputs become warnings, or end the run.

`nonfinite_guard.py` skips steps on the device. The host looks at the counts when a line of metrics.jsonl is due, since
it waits for the device then anyway.
"""

import warnings
from typing import Any

import torch

from simsiam.pipeline.errors import RunError
from simsiam.train.config import HealthConfig
from simsiam.train.nonfinite_guard import NonfiniteGuard

START_ANEW = "Or start anew, in another run folder, with a smaller optimizer.base_lr or with precision fp32."
"""Advice for settings that can't change within a run."""

_HOPELESS_STREAK = 10  # skipped steps in a row: the weights themselves are broken


class Unhealthy(RunError):
    """The run must stop, as configured; its weights are finite and can be saved."""


class Health:
    """Checks the counts and records of a run, and acts as configured; `healthy_std` is 1/√d.

    Of several processes only the one with `speaks` warns; all of them stop at the same step.
    """

    def __init__(
        self,
        config: HealthConfig,
        guard: NonfiniteGuard,
        healthy_std: float,
        speaks: bool = True,
    ) -> None:
        self._config, self._speaks = config, speaks
        self._least_std = config.collapse_std * healthy_std
        self._guard = guard
        self._skipped_before = 0
        self._good_step = 0  # of the last record that looked healthy
        self._warned_of_collapse = False

    def check_steps(self, step: int) -> int:
        """Return how many steps were skipped so far, and warn of new ones. Waits for the device.

        Raises Unhealthy when `on_nonfinite` is `stop` and a step was skipped; RunError when it is `skip` and the last
        steps were all skipped.
        """
        skipped, streak = torch.stack([self._guard.skipped, self._guard.streak]).tolist()
        if self._config.on_nonfinite == "stop":
            if skipped > self._skipped_before:
                self._skipped_before = skipped  # so that saving the run doesn't raise again
                raise Unhealthy(
                    f"A gradient was not finite in one of the last steps before step {step}; they changed no weight,"
                    " and the newest checkpoint is of this step: resume it with health.on_nonfinite skip."
                    f" {START_ANEW}"
                )
        elif streak >= _HOPELESS_STREAK:
            raise RunError(
                f"No gradient was finite in the {streak} steps before step {step}, so this is not saved: resume"
                f" from an older checkpoint, if there is one. {START_ANEW}"
            )
        if skipped > self._skipped_before:
            self._warn(
                f"Steps skipped before step {step}, since a gradient was not finite:"
                f" {skipped - self._skipped_before} ({skipped} in all)."
            )
        self._skipped_before = skipped
        return skipped

    def last_step_was_skipped(self) -> bool:
        """Tell whether the last step's gradient was not finite. Waits for the device."""
        return bool(self._guard.found_inf)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs to write the same records."""
        return {"steps": self._guard.state_dict(), "skipped": self._skipped_before, "good_step": self._good_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a saved run; call it after the model's state is restored."""
        self._guard.load_state_dict(state["steps"])
        self._skipped_before, self._good_step = state["skipped"], state["good_step"]

    def check_output(self, step: int, loss: float, std: float) -> int:
        """Return the steps since the output was last healthy, 0 if it is; `loss` and `std` are a record's means.

        Raises Unhealthy when it has collapsed for `collapse_steps` and `on_collapse` is `stop`.
        """
        if std >= self._least_std and loss > self._config.collapse_loss:
            self._good_step, self._warned_of_collapse = step, False
            return 0
        steps = step - self._good_step
        if steps >= self._config.collapse_steps and self._config.on_collapse != "ignore":
            what = (
                f"The output has collapsed: for {steps} steps the spread has been below {self._least_std:.2g}"
                f" or the loss below {self._config.collapse_loss} (step {step}: spread {std:.2g}, loss {loss:.4f})."
                " Start anew, in another run folder, with a smaller optimizer.base_lr, a larger batch or stronger"
                " augmentation."
            )
            if self._config.on_collapse == "stop":
                raise Unhealthy(what)
            if not self._warned_of_collapse:
                self._warn(what)
                self._warned_of_collapse = True
        return steps

    def _warn(self, text: str) -> None:
        if self._speaks:
            warnings.warn(text, stacklevel=3)
