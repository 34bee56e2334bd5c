"""SimSiam (arXiv 2011.10566): two views of each image → predictions and stop-gradient projections."""

from typing import NamedTuple

from torch import Tensor, nn

from simsiam.model.batch_norm import PerViewBatchNorm1d, separate_views
from simsiam.model.resnet import ResNet


class SimSiamOutput(NamedTuple):
    """What the loss reads, in the paper's letters (§3); each is (n, projection_dim)."""

    p1: Tensor
    """Predictions h(f(x₁)) for the first views."""
    p2: Tensor
    """Predictions h(f(x₂)) for the second views."""
    z1: Tensor
    """Projections f(x₁) of the first views, detached."""
    z2: Tensor
    """Projections f(x₂) of the second views, detached."""


class SimSiam(nn.Module):
    """Encoder, projector and predictor: f and h of arXiv 2011.10566 §3, f being encoder and projector.

    Linear layers keep PyTorch's initialisation, which the paper follows too (App. A).

    Attributes:
        encoder: Images → features, (n, encoder.feature_dim).
        projector: `projector_layers` linear layers without bias, each followed by batch norm, and by ReLU but
            for the last; the last batch norm has no scale and shift (§4.4: 68.2 % without, 68.1 % with them).
        predictor: Linear without bias, batch norm, ReLU, linear with bias: a bottleneck with nothing on its
            output (§3, "Prediction MLP").
    """

    def __init__(
        self,
        encoder: ResNet,
        *,
        projection_dim: int = 2048,
        prediction_hidden: int = 512,
        projector_layers: int = 3,
        views: int = 2,
    ) -> None:
        """Build the two heads on `encoder`.

        Args:
            encoder: Images → (n, encoder.feature_dim).
            projection_dim: Width d of the projector's hidden and output layers; 2048 in §3.
            prediction_hidden: Width of the predictor's bottleneck; 512 in §3, d/4 for other d (App. B).
            projector_layers: Linear layers of the projector; 3 in §3, 2 for CIFAR-10 (App. D).
            views: Blocks of a batch that every batch norm keeps apart in training mode, the encoder's included:
                2 for statistics per view as in the paper, 1 for statistics over both views.

        Raises:
            ValueError: A width, a number of layers or `views` is below 1.
        """
        super().__init__()
        for name, size in (
            ("projection_dim", projection_dim),
            ("prediction_hidden", prediction_hidden),
            ("projector_layers", projector_layers),
        ):
            if size < 1:
                raise ValueError(f"{name} is {size}; give 1 or more.")
        self.encoder = encoder
        self.projector = _projector(encoder.feature_dim, projection_dim, projector_layers)
        self.predictor = nn.Sequential(
            nn.Linear(projection_dim, prediction_hidden, bias=False),
            PerViewBatchNorm1d(prediction_hidden),
            nn.ReLU(inplace=True),
            nn.Linear(prediction_hidden, projection_dim),
        )
        separate_views(self, views)

    def forward(self, views: Tensor) -> SimSiamOutput:
        """Run both views in one pass (Algorithm 1 with its two passes joined; batch norm keeps them apart).

        Args:
            views: Images, (2n, 3, height, width): all first views, then all second views in the same order.

        Raises:
            ValueError: The number of images is odd.
        """
        if views.shape[0] % 2:
            raise ValueError(
                f"A batch of {views.shape[0]} images is not two views of each; "
                "give all first views, then all second views."
            )
        z = self.projector(self.encoder(views))
        p1, p2 = self.predictor(z).chunk(2)
        z1, z2 = z.detach().chunk(2)
        return SimSiamOutput(p1, p2, z1, z2)


def _projector(feature_dim: int, projection_dim: int, layers: int) -> nn.Sequential:
    widths = [feature_dim] + [projection_dim] * (layers - 1)
    modules: list[nn.Module] = []
    for width in widths[:-1]:
        modules += [
            nn.Linear(width, projection_dim, bias=False),
            PerViewBatchNorm1d(projection_dim),
            nn.ReLU(inplace=True),
        ]
    modules += [
        nn.Linear(widths[-1], projection_dim, bias=False),
        PerViewBatchNorm1d(projection_dim, affine=False),
    ]
    return nn.Sequential(*modules)
