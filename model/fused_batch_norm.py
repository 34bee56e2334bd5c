"""Fused batch norm for a ResNet: each batch norm, its residual sum and its ReLU as one operation."""

from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.resnet import BasicBlock, Bottleneck

from simsiam.kernels.batch_norm_relu import batch_norm_relu, has_kernel
from simsiam.model.batch_norm import PerViewBatchNorm2d
from simsiam.model.resnet import ResNet


class FusedBatchNorm2d(PerViewBatchNorm2d):
    """`PerViewBatchNorm2d` that adds a residual and applies ReLU as well; its state has the same names."""

    relu = True

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return relu(batch_norm(input) + residual), of the shape of `input`; without ReLU where `relu` is False."""
        if self.training and self.world_size > 1 and not has_kernel(input):
            normalized = super().forward(input)
            normalized = normalized if residual is None else normalized + residual
            return functional.relu(normalized) if self.relu else normalized
        if self.momentum is None:
            raise ValueError("A fused batch norm has no cumulative average; give momentum a number.")
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(self.views)
        return batch_norm_relu(
            input,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            residual,
            views=self.views,
            training=self.training or self.running_mean is None,
            momentum=self.momentum,
            eps=self.eps,
            relu=self.relu,
            world_size=self.world_size if self.training else 1,
        )


class FusedBasicBlock(BasicBlock):
    """torchvision's block of two convolutions, with fused batch norms."""

    bn2: FusedBatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output: the last batch norm adds the shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), shortcut)


class FusedBottleneck(Bottleneck):
    """torchvision's block of three convolutions, with fused batch norms."""

    bn3: FusedBatchNorm2d

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output: the last batch norm adds the shortcut."""
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return self.bn3(self.conv3(out), shortcut)


def fuse_batch_norm(encoder: ResNet) -> None:
    """Have `encoder` compute each batch norm with its residual sum and ReLU in one operation, from now on.

    Weights, state and results stay what they are. A shortcut's batch norm has no ReLU.
    """
    encoder.relu = nn.Identity()  # type: ignore[assignment]
    for module in list(encoder.modules()):
        if isinstance(module, PerViewBatchNorm2d):
            module.__class__ = FusedBatchNorm2d
        elif isinstance(module, Bottleneck | BasicBlock):
            fused = FusedBottleneck if isinstance(module, Bottleneck) else FusedBasicBlock
            module.__class__ = fused  # pyright: ignore[reportAttributeAccessIssue]
            for norm in module.downsample.children() if module.downsample else ():
                norm.relu = False  # pyright: ignore[reportArgumentType]
