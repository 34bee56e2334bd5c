"""Gradients and records of a run → steps that are skipped, warnings, or the end of the run.

What has to act before the weights change is decided on the device; what the host has to say is said when a line of
metrics.jsonl is due, since then the host waits for the device anyway.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from simsiam.pipeline.errors import RunError
from simsiam.train.config import HealthConfig

BEGIN_ANEW = "Or begin anew, in another --run-dir, with a smaller --optimizer.base-lr or with --precision fp32."
"""What else there is to do: these settings can't change within a run."""

_HOPELESS_STREAK = 10  # skipped steps in a row: the weights themselves are beyond use


class Unhealthy(RunError):
    """The run is to stop, as configured; its weights are good ones."""


class FiniteSteps:
    """Lets an optimizer step change nothing when a gradient is not finite, and counts such steps on the device.

    The optimizer must be a fused one: its kernel reads `found_inf` on the device and then leaves weights and momentum
    as they are, as for PyTorch's GradScaler. The running statistics of batch norm, which the forward pass has already
    changed by then, are put back. A loss that is not finite has such gradients, so it needs no look of its own. In
    several processes all decide alike, since the gradients have been averaged before.

    Where a GradScaler takes the step (fp16), gradients are still scaled here, and one that is not finite may say only
    that the scale is too large. The scaler then halves it; the step changes nothing but isn't counted, unless the
    forward pass, which knows no scale, left a running statistic that is not finite, or the scale is down at 1.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        device = parameters[0].device
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        """Steps skipped so far."""
        self.streak = torch.zeros((), dtype=torch.int64, device=device)
        """Steps skipped since the last one that was not."""
        self.found_inf = torch.zeros(1, device=device)
        """Whether the last step was skipped, for whatever reason: 0 or 1, float32 (1,)."""
        self._parameters = parameters
        self._statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self._statistics:
            self._good_statistics = self._gather_statistics()
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                # A first step that is skipped would else leave memory as it came; 0 · momentum + g is g exactly.
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        optimizer.register_step_pre_hook(self._before_step)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"skipped": self.skipped, "streak": self.streak}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the counts; to be called when the model has taken up its state."""
        self.skipped.copy_(state["skipped"])
        self.streak.copy_(state["streak"])
        if self._statistics:
            self._good_statistics.copy_(self._gather_statistics())

    def _gather_statistics(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._statistics])

    @torch.no_grad()
    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        bad = ~_all_finite(gradients)
        self.found_inf.copy_(bad)
        optimizer.found_inf = self.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        statistics = self._gather_statistics() if self._statistics else bad.new_zeros(0)
        ill, scale = bad, getattr(optimizer, "grad_scale", None)  # which GradScaler.step sets
        if scale is not None:
            ill = bad & ((scale <= 1) | ~statistics.isfinite().all())
        self.skipped += ill
        self.streak.add_(ill).mul_(bad)
        if self._statistics:
            statistics = torch.where(bad, self._good_statistics, statistics)
            self._good_statistics.copy_(statistics)
            parts = statistics.split([buffer.numel() for buffer in self._statistics])
            shaped = [part.view_as(buffer) for part, buffer in zip(parts, self._statistics, strict=True)]
            torch._foreach_copy_(self._statistics, shaped)  # pyright: ignore[reportPrivateImportUsage]


def _all_finite(tensors: list[Tensor]) -> Tensor:
    """Return whether no value is NaN or infinite, as a bool on the device, after one pass over them.

    A sum, on a GPU of squares, that overflows float32 is as bad as an infinite value.
    """
    if tensors[0].device.type == "cpu":
        # A norm first copies what is channels-last, and is slow: 7 ms for ResNet-18, where this takes 2.
        return torch.stack([tensor.sum() for tensor in tensors]).isfinite().all()
    return torch.nn.utils.get_total_norm(tensors, foreach=True).isfinite()


class Health:
    """Watches a run by its records, and acts as configured; `healthy_std` is 1/√d.

    In several processes only the one with `speaks` warns; all of them stop alike.
    """

    def __init__(
        self,
        config: HealthConfig,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        healthy_std: float,
        speaks: bool = True,
    ) -> None:
        self._config, self._speaks = config, speaks
        self._least_std = config.collapse_std * healthy_std
        self._steps = FiniteSteps(model, optimizer)
        self._skipped_before = 0
        self._good_step = 0  # of the last record that looked healthy
        self._warned_of_collapse = False

    def look(self, record: dict[str, Any]) -> dict[str, int]:
        """Return what a record is to hold besides: `skipped_steps` and `collapsed_steps`. Waits for the device.

        `skipped_steps` counts from the begin of the run, `collapsed_steps` since the output was last a healthy one.
        Raises RunError when the run is to stop.
        """
        skipped = self.check_steps(record["step"])
        return {"skipped_steps": skipped, "collapsed_steps": self._check_output(record)}

    def check_steps(self, step: int) -> int:
        """Return how many steps were skipped, with a warning if they have become more. Waits for the device.

        Raises Unhealthy when one was and `on_nonfinite` is `stop`; RunError when the last 10 were and it is `skip`.
        """
        skipped, streak = torch.stack([self._steps.skipped, self._steps.streak]).tolist()
        if self._config.on_nonfinite == "stop":
            if skipped > self._skipped_before:
                self._skipped_before = skipped  # so that the run can be saved, and gone on with
                raise Unhealthy(
                    f"A gradient was not finite in one of the last steps before step {step}; they changed no weight,"
                    " and the newest checkpoint is of this step: go on from it with --health.on-nonfinite skip."
                    f" {BEGIN_ANEW}"
                )
        elif streak >= _HOPELESS_STREAK:
            raise RunError(
                f"No gradient was finite in the {streak} steps before step {step}, so this is not saved: go on from"
                f" an older checkpoint, if there is one. {BEGIN_ANEW}"
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
        return bool(self._steps.found_inf)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed run needs to write the very same records."""
        return {"steps": self._steps.state_dict(), "skipped": self._skipped_before, "good_step": self._good_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of a saved run; to be called when the model has taken up its own."""
        self._steps.load_state_dict(state["steps"])
        self._skipped_before, self._good_step = state["skipped"], state["good_step"]

    def _check_output(self, record: dict[str, Any]) -> int:
        step, loss, std = record["step"], record["loss"], record["output_std"]
        if std >= self._least_std and loss > self._config.collapse_loss:
            self._good_step, self._warned_of_collapse = step, False
            return 0
        steps = step - self._good_step
        if steps >= self._config.collapse_steps and self._config.on_collapse != "ignore":
            what = (
                f"The output has collapsed: for {steps} steps the spread has been below {self._least_std:.2g}"
                f" or the loss below {self._config.collapse_loss} (step {step}: spread {std:.2g}, loss {loss:.4f})."
                " Begin anew, in another --run-dir, with a smaller --optimizer.base-lr, a larger batch or stronger"
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
