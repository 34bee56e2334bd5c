"""Batch norm with separate statistics for each view of a batch, alone or shared by several processes."""

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from simsiam.kernels.batch_norm_relu import gather_statistics, update_running_statistics


class _PerViewBatchNorm(nn.Module):
    """What `PerViewBatchNorm1d` and `PerViewBatchNorm2d` add to PyTorch's layers, their next base."""

    dimensions: ClassVar[tuple[int, ...]]
    """Numbers of dimensions that a batch may have."""
    eps: float
    momentum: float | None
    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        views: int = 2,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if views < 1:
            raise ValueError(f"views is {views}; give 1 or more.")
        self.views = views
        self.world_size = 1
        """Processes that share the statistics; see `share_statistics`."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a batch of the shape that the class names."""
        if not self.training or (self.views == 1 and self.world_size == 1):
            return super().forward(input)
        if input.shape[0] % self.views:
            raise ValueError(
                f"A batch of {input.shape[0]} does not divide into {self.views} views; "
                "give the same number of images of each view, first views first."
            )
        if self.world_size > 1:
            return self._normalize_together(input)
        # One after the other: the running statistics of a view start from those of the view before it.
        normalized = []
        for view in input.chunk(self.views):
            normalized.append(super().forward(view))
        return torch.cat(normalized)

    def _normalize_together(self, input: Tensor) -> Tensor:
        if input.ndim not in self.dimensions:
            raise ValueError(f"A batch of {input.ndim} dimensions can't be normalised; give {self.dimensions[0]}.")
        normalized, mean, variance = _NormalizeTogether.apply(
            input, self.weight, self.bias, self.views, self.eps, self.world_size
        )
        if self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None and self.num_batches_tracked is not None
            count = input.numel() // mean.numel() * self.world_size
            update_running_statistics(self.running_mean, self.running_var, mean, variance, count, self.momentum)
            self.num_batches_tracked.add_(self.views)
        return normalized

    def extra_repr(self) -> str:
        """Describe the layer in one line, as PyTorch's does."""
        return f"{super().extra_repr()}, views={self.views}"


class PerViewBatchNorm2d(_PerViewBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` for a batch of `views` equal blocks: all first views, then all second views, ….

    SimSiam runs its encoder once per view (arXiv 2011.10566, Algorithm 1), so each view is normalised by its
    own statistics. In training mode one pass over the whole batch through this layer gives what `views`
    passes through `nn.BatchNorm2d` give, in order: outputs, gradients, running statistics and
    `num_batches_tracked`. In evaluation mode, and in the names of its state, it is `nn.BatchNorm2d`.

    `forward` takes and returns (views·n, num_features, height, width); a channels-last batch stays
    channels-last. In training mode it raises ValueError when the batch does not divide into `views`.
    """

    dimensions = (4,)


class PerViewBatchNorm1d(_PerViewBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` for a batch of `views` equal blocks; see `PerViewBatchNorm2d`.

    `forward` takes and returns (views·n, num_features).
    """

    dimensions = (2, 3)


def separate_views(model: nn.Module, views: int) -> None:
    """Have each batch norm of `model`, in training, normalise `views` equal blocks of a batch by their own statistics.

    With 1 it is plain batch norm. Raises ValueError when `views` is below 1.
    """
    if views < 1:
        raise ValueError(f"views is {views}; give 1 or more.")
    for module in model.modules():
        if isinstance(module, _PerViewBatchNorm):
            module.views = views


def share_statistics(model: nn.Module, world_size: int) -> None:
    """Have each batch norm of `model`, in training, normalise by the statistics of `world_size` processes' batches.

    Each process holds as many images of each view. What `world_size` processes then compute together, gradients
    included, is what one process computes on the whole batch (as long as the loss is averaged over the processes);
    running statistics are the same bits in all of them. A layer talks once forward and once backward, for all its
    views together, through the default process group; PyTorch's SyncBatchNorm, which does so for one view, takes no
    CPU tensors. Once shared, a model can be trained only by all processes at the same time.

    Raises ValueError for a batch norm with a cumulative average (momentum None).
    """
    for module in model.modules():
        if isinstance(module, _PerViewBatchNorm):
            if module.momentum is None:
                raise ValueError("A batch norm with a cumulative average can't be shared; give momentum a number.")
            module.world_size = world_size


class _NormalizeTogether(torch.autograd.Function):
    """Batch norm over the batches of all processes: gives the normalised batch, mean and biased variance."""

    @staticmethod
    def forward(
        ctx: Any, batch: Tensor, weight: Tensor | None, bias: Tensor | None, views: int, eps: float, world_size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        values = _by_view(batch, views)
        local_variance, local_mean = torch.var_mean(values, _reduced(values), correction=0)
        mean, variance = gather_statistics(local_mean, local_variance, world_size)
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        values = (values - _spread(mean, values)) * _spread(scale, values)
        if bias is not None:
            values = values + _spread(bias.expand_as(mean), values)
        normalized = torch.empty_like(batch)  # and no view of `values`: a ReLU may change it in place
        normalized.unflatten(0, (views, -1)).copy_(values)
        ctx.save_for_backward(batch, weight, mean, inverse)
        ctx.views, ctx.world_size, ctx.has_bias = views, world_size, bias is not None
        ctx.mark_non_differentiable(mean, variance)
        return normalized, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        batch, weight, mean, inverse = ctx.saved_tensors
        values, gradient = _by_view(batch, ctx.views), _by_view(gradients[0], ctx.views)
        centred = (values - _spread(mean, values)) * _spread(inverse, values)
        over = _reduced(values)
        local = torch.stack([gradient.sum(over), (gradient * centred).sum(over)])
        # The parameters' gradients stay local sums: they are averaged with all others'.
        bias_gradient, weight_gradient = local.sum(1).unbind()
        total = local.clone()
        dist.all_reduce(total)
        along_one, along_centred = (total / (values.numel() // mean.numel() * ctx.world_size)).unbind()
        through = gradient - _spread(along_one, values) - centred * _spread(along_centred, values)
        batch_gradient = through * _spread(inverse if weight is None else inverse * weight, values)
        return (
            batch_gradient.flatten(0, 1).to(batch.dtype),
            None if weight is None else weight_gradient,
            bias_gradient if ctx.has_bias else None,
            None,
            None,
            None,
        )


def _by_view(batch: Tensor, views: int) -> Tensor:
    """(views·n, channels, …) → (views, n, channels, …), in float32 at least."""
    return batch.to(torch.promote_types(batch.dtype, torch.float32)).unflatten(0, (views, -1))


def _reduced(values: Tensor) -> tuple[int, ...]:
    """Return the dimensions that statistics of (views, n, channels, …) are taken over."""
    return (1, *range(3, values.ndim))


def _spread(statistic: Tensor, values: Tensor) -> Tensor:
    """(views, channels) → (views, 1, channels, 1, …), to go with `values`."""
    return statistic.view(statistic.shape[0], 1, statistic.shape[1], *[1] * (values.ndim - 3))
