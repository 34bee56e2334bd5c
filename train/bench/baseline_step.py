"""The baseline's training step: two normalised views, one after the other, as most trainings do (arXiv 2011.10566)."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torchvision.models import resnet as torchvision_resnet

from simsiam.train.config import ModelConfig, OptimizerConfig
from simsiam.train.schedule import initial_learning_rate
from simsiam.train.step import Mark


class BaselineNetwork(nn.Module):
    """torchvision's ResNet and the two heads of section 3 in `torch.nn`, run on one view after the other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = getattr(torchvision_resnet, config.arch)(zero_init_residual=config.zero_init_residual)
        features, width, hidden = self.encoder.fc.in_features, config.projection_dim, config.prediction_hidden
        self.encoder.fc = nn.Identity()
        if config.stem == "cifar":
            self.encoder.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            self.encoder.maxpool = nn.Identity()
        projector: list[nn.Module] = []
        for inputs in [features, *[width] * (config.projector_layers - 2)]:
            projector += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
        projector += [nn.Linear(width, width, bias=False), nn.BatchNorm1d(width, affine=False)]
        self.projector = nn.Sequential(*projector)
        self.predictor = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width),
        )

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Two batches (n, 3, height, width) → p1, p2, z1 and z2, each (n, projection_dim), as in Algorithm 1."""
        z1, z2 = self.projector(self.encoder(first)), self.projector(self.encoder(second))
        return self.predictor(z1), self.predictor(z2), z1.detach(), z2.detach()


class BaselineStep:
    """A step in float32, or in automatic mixed precision: channels-first, uncompiled, PyTorch's own SGD.

    Mixed precision is bfloat16, or float16 with a GradScaler on a GPU without it.
    """

    def __init__(
        self, model: ModelConfig, optimizer: OptimizerConfig, batch_size: int, device: torch.device, mixed: bool
    ) -> None:
        self.network = BaselineNetwork(model).to(device)
        self._similarity = nn.CosineSimilarity(dim=1)
        heads = [*self.network.encoder.parameters(), *self.network.projector.parameters()]
        self._optimizer = torch.optim.SGD(
            [{"params": heads}, {"params": list(self.network.predictor.parameters())}],
            lr=initial_learning_rate(optimizer.base_lr, batch_size),
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
        )
        self.dtype = torch.float32
        """Type of its convolutions and matrix products."""
        if mixed:
            has_bfloat16 = device.type == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)
            self.dtype = torch.bfloat16 if has_bfloat16 else torch.float16
        self._precision = torch.autocast(device.type, self.dtype) if mixed else nullcontext()
        self._scaler = GradScaler(device.type, enabled=self.dtype == torch.float16)

    def __call__(self, views: tuple[Tensor, Tensor], mark: Mark = lambda stage: None) -> Tensor:
        """Take a step on two float32 views (n, 3, height, width) on the device; return the loss, a scalar on it."""
        first, second = views
        with self._precision:
            p1, p2, z1, z2 = self.network(first, second)
            loss = -(self._similarity(p1, z2).mean() + self._similarity(p2, z1).mean()) / 2
        mark("forward")
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        mark("backward")
        self._scaler.step(self._optimizer)
        self._scaler.update()
        mark("optimizer")
        return loss.detach()
