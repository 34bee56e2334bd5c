"""Guard against non-finite gradients: skips the update on the device, without waiting for it, and counts it."""

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler


class NonfiniteGuard:
    """Takes an optimizer's steps, skips those with a non-finite gradient, and counts them on the device.

    The optimizer must be a fused one: its kernel reads `found_inf` on the device and, if it is set, leaves weights and
    momentum unchanged, as for PyTorch's GradScaler. The guard restores the running statistics of batch norm, which the
    forward pass has already changed. A non-finite loss has non-finite gradients, so it needs no check of its own.
    Several processes decide alike, since their gradients are averaged before.

    With a GradScaler (fp16) the gradients are still scaled, and a non-finite one may only mean that the scale is too
    large. The scaler then halves it, and the step is skipped but not counted. It is counted if the forward pass, which
    is not scaled, left a non-finite running statistic, or if the scale has fallen to 1.
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
        """Whether the last step was skipped, counted or not: 0 or 1, float32 (1,)."""
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
            # The scaler checks the gradients' values, this class their sum, which may overflow alone. A NaN in one
            # gradient makes both skip the same steps.
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
        scaler.step(self._optimizer)  # doesn't wait for the device, since the optimizer is fused
        scaler.update()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the counts."""
        return {"skipped": self.skipped, "streak": self.streak}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the counts; call it after the model's state is restored."""
        self.skipped.copy_(state["skipped"])
        self.streak.copy_(state["streak"])
        if self._statistics:
            self._good_statistics.copy_(self._gather_statistics())

    def _gather_statistics(self) -> Tensor:
        return torch.cat([buffer.flatten() for buffer in self._statistics])


def _all_finite(tensors: list[Tensor]) -> Tensor:
    """Return whether all values are finite, as a bool on the device, in one pass: whether their sum is.

    A sum (on a GPU, of squares) that overflows float32 counts as non-finite, too.
    """
    if tensors[0].device.type == "cpu":
        # A norm copies channels-last tensors first: 7 ms for ResNet-18, where this sum takes 2.
        return torch.stack([tensor.sum() for tensor in tensors]).isfinite().all()
    return torch.nn.utils.get_total_norm(tensors, foreach=True).isfinite()
