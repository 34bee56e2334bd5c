"""Guard against non-finite gradients: an update that would change nothing for the better is skipped on the device."""

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler


class NonfiniteGuard:
    """Takes an optimizer's steps, skips those with a gradient that is not finite, and counts them on the device.

    The optimizer must be a fused one: its kernel reads `found_inf` on the device and then leaves weights and momentum
    as they are, as for PyTorch's GradScaler. The running statistics of batch norm, which the forward pass has already
    changed by then, are restored. A loss that is not finite has such gradients, so it needs no check of its own. In
    several processes all decide alike, since the gradients have been averaged before.

    With a GradScaler (fp16) the gradients are still scaled, and one that is not finite may only mean that the scale is
    too large. The scaler then halves it; the step changes nothing but isn't counted, unless the forward pass, which
    knows no scale, left a running statistic that is not finite, or the scale is down at 1.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        device = self._parameters[0].device
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        """Steps skipped so far."""
        self.streak = torch.zeros((), dtype=torch.int64, device=device)
        """Steps skipped since the last one that was not."""
        self.found_inf = torch.zeros(1, device=device)
        """Whether the last step was skipped, for whatever reason: 0 or 1, float32 (1,)."""
        self._one = torch.ones((), device=device)
        self._statistics = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if self._statistics:
            self._good_statistics = self._gather_statistics()
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                # Zero momentum now: if the very first step is skipped, PyTorch would leave it uninitialised. The first
                # update is the same, 0 · momentum + g = g.
                optimizer.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))

    @torch.no_grad()
    def step(self, scaler: GradScaler) -> None:
        """Update the weights by their gradients, or skip the update. Waits for nothing."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        bad = ~_all_finite(gradients)
        self.found_inf.copy_(bad)
        statistics = self._gather_statistics() if self._statistics else bad.new_zeros(0)
        counted = bad
        if scaler.is_enabled():
            scale = scaler.scale(self._one)
            assert isinstance(scale, Tensor)
            counted = bad & ((scale <= 1) | ~statistics.isfinite().all())
            # The scaler decides by the gradients' values, and this class by their sum, which may overflow alone: a
            # NaN in one gradient has both skip the same steps.
            gradients[-1].add_(torch.where(bad, torch.nan, 0.0))
        else:
            self._optimizer.found_inf = self.found_inf  # pyright: ignore[reportAttributeAccessIssue]
        self.skipped += counted
        self.streak.add_(counted).mul_(bad)
        if self._statistics:
            statistics = torch.where(bad, self._good_statistics, statistics)
            self._good_statistics.copy_(statistics)
            parts = statistics.split([buffer.numel() for buffer in self._statistics])
            shaped = [part.view_as(buffer) for part, buffer in zip(parts, self._statistics, strict=True)]
            torch._foreach_copy_(self._statistics, shaped)  # pyright: ignore[reportPrivateImportUsage]
        scaler.step(self._optimizer)  # a fused optimizer's scaled step waits for nothing, either
        scaler.update()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"skipped": self.skipped, "streak": self.streak}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the counts; to be called once the model has its state."""
        self.skipped.copy_(state["skipped"])
        self.streak.copy_(state["streak"])
        if self._statistics:
            self._good_statistics.copy_(self._gather_statistics())

    def _gather_statistics(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._statistics])


def _all_finite(tensors: list[Tensor]) -> Tensor:
    """Return whether no value is NaN or infinite, as a bool on the device, after one pass over them.

    A sum, on a GPU of squares, that overflows float32 is as bad as an infinite value.
    """
    if tensors[0].device.type == "cpu":
        # A norm first copies what is channels-last, and is slow: 7 ms for ResNet-18, where this takes 2.
        return torch.stack([tensor.sum() for tensor in tensors]).isfinite().all()
    return torch.nn.utils.get_total_norm(tensors, foreach=True).isfinite()
