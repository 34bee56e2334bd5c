"""A batch that holds several views of the same images, view-major → batch norm with statistics per view."""

import torch
from torch import Tensor, nn


class PerViewBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` for a batch of `views` equal blocks: all first views, then all second views, ….

    SimSiam runs its encoder once per view (arXiv 2011.10566, Algorithm 1), so each view is normalised by its
    own statistics. In training mode one pass over the whole batch through this layer gives what `views`
    passes through `nn.BatchNorm2d` give, in order: outputs, gradients, running statistics and
    `num_batches_tracked`. In evaluation mode, and in the names of its state, it is `nn.BatchNorm2d`.

    `forward` takes and returns (views·n, num_features, height, width); a channels-last batch stays
    channels-last. In training mode it raises ValueError when the batch does not divide into `views`.
    """

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
        self.views = _checked_views(views)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a batch of (views·n, num_features, height, width)."""
        if not self.training or self.views == 1:
            return super().forward(input)
        normalised = []
        # One after the other: the running statistics of a view start from those of the view before it.
        for view in _split_views(input, self.views):
            normalised.append(super().forward(view))
        return torch.cat(normalised)

    def extra_repr(self) -> str:
        """Describe the layer in one line, as `nn.BatchNorm2d` does."""
        return f"{super().extra_repr()}, views={self.views}"


class PerViewBatchNorm1d(nn.BatchNorm1d):
    """`nn.BatchNorm1d` for a batch of `views` equal blocks; see `PerViewBatchNorm2d`.

    `forward` takes and returns (views·n, num_features).
    """

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
        self.views = _checked_views(views)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise a batch of (views·n, num_features)."""
        if not self.training or self.views == 1:
            return super().forward(input)
        normalised = []
        for view in _split_views(input, self.views):
            normalised.append(super().forward(view))
        return torch.cat(normalised)

    def extra_repr(self) -> str:
        """Describe the layer in one line, as `nn.BatchNorm1d` does."""
        return f"{super().extra_repr()}, views={self.views}"


def _checked_views(views: int) -> int:
    if views < 1:
        raise ValueError(f"views is {views}; give 1 or more.")
    return views


def _split_views(batch: Tensor, views: int) -> tuple[Tensor, ...]:
    if batch.shape[0] % views:
        raise ValueError(
            f"A batch of {batch.shape[0]} does not divide into {views} views; "
            "give the same number of images of each view, first views first."
        )
    return batch.chunk(views)
