"""ResNet encoder: torchvision's ResNet without its classifier, images → one feature vector each."""

import difflib
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from simsiam.model.batch_norm import PerViewBatchNorm2d

# Blocks per stage: He et al., "Deep Residual Learning for Image Recognition", arXiv 1512.03385, Table 1.
_STAGES = {
    "resnet18": (torchvision_resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet34": (torchvision_resnet.BasicBlock, [3, 4, 6, 3]),
    "resnet50": (torchvision_resnet.Bottleneck, [3, 4, 6, 3]),
    "resnet101": (torchvision_resnet.Bottleneck, [3, 4, 23, 3]),
}


class ResNet(torchvision_resnet.ResNet):
    """torchvision's ResNet up to global average pooling.

    Its state has torchvision's names, less `fc.*`. Convolutions start from Kaiming's normal (fan-out), batch
    norms from 1 and 0; with `zero_init_residual` the last batch norm of every residual block starts from 0, so
    that a block starts as the identity (arXiv 1706.02677 §5.1).

    `forward` takes (n, 3, height, width) and returns (n, feature_dim). Its batch norm is plain, over the whole batch;
    `SimSiam` has it keep the views apart (see `PerViewBatchNorm2d`).

    Attributes:
        feature_dim: Length of the feature vector: 512 for ResNet-18 and -34, 2048 for ResNet-50 and -101.
    """

    def __init__(
        self,
        block: type[torchvision_resnet.BasicBlock | torchvision_resnet.Bottleneck],
        stages: list[int],
        stem: Literal["imagenet", "cifar"],
        zero_init_residual: bool,
    ) -> None:
        super().__init__(
            block,
            stages,
            num_classes=1,
            zero_init_residual=zero_init_residual,
            norm_layer=partial(PerViewBatchNorm2d, views=1),
        )
        self.feature_dim = 512 * block.expansion
        # The inherited forward ends in `fc`; the identity leaves the pooled features and has no state.
        self.fc = nn.Identity()
        if stem == "cifar":
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()

    def taps(self, x: Tensor) -> dict[str, Tensor]:
        """Return the five feature maps that the frozen-feature benchmarks read.

        Args:
            x: Images, (n, 3, height, width).

        Returns:
            `feature1` after the first convolution, batch norm and ReLU, before max-pooling; `feature2` …
            `feature5` after stages 1 … 4. For ResNet-50 at 224 px: 64×112², 256×56², 512×28², 1024×14² and
            2048×7² (OpenMMLab mmselfsup,
            `configs/benchmarks/classification/_base_/models/resnet50_multihead.py`).
        """
        feature1 = self.relu(self.bn1(self.conv1(x)))
        feature2 = self.layer1(self.maxpool(feature1))
        feature3 = self.layer2(feature2)
        feature4 = self.layer3(feature3)
        feature5 = self.layer4(feature4)
        return {
            "feature1": feature1,
            "feature2": feature2,
            "feature3": feature3,
            "feature4": feature4,
            "feature5": feature5,
        }


def resnet(
    arch: str,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    zero_init_residual: bool = True,
) -> ResNet:
    """Build a ResNet encoder with fresh weights.

    Args:
        arch: resnet18, resnet34, resnet50 or resnet101. The stride of a bottleneck sits in its 3×3
            convolution, as in torchvision.
        stem: `imagenet` is a 7×7 convolution of stride 2 and max-pooling; `cifar` a 3×3 convolution of stride
            1 without max-pooling, for images of about 32 px (arXiv 2011.10566, App. D).
        zero_init_residual: Start the last batch norm of every residual block from 0, as the reference does. The
            fresh network then sees an image only at its shortcuts' strides, every 32nd pixel with the ImageNet
            stem: fine at 224 px, but a corner and little else at 32 px.

    Raises:
        ValueError: `arch` or `stem` is none of these.
    """
    if arch not in _STAGES:
        near = difflib.get_close_matches(arch, _STAGES, n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise ValueError(f"There is no encoder {arch!r}: choose from {', '.join(_STAGES)}{hint}")
    if stem not in ("imagenet", "cifar"):
        raise ValueError(f"There is no stem {stem!r}: choose imagenet or cifar.")
    block, stages = _STAGES[arch]
    return ResNet(block, stages, stem, zero_init_residual)
