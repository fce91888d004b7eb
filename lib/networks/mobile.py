"""Networks for phones that torchvision has not: MobileNetV1 and ProxylessNAS mobile.

Both are made of depthwise convolutions, one kernel a channel, and 1×1 convolutions between them.
"""

from torch import Tensor, nn
from torch.nn import functional

from lib.networks.initialisation import he_

#: What BatchNorm adds to the variance in both: their weights were trained with it.
EPSILON = 1e-3

#: MobileNetV1: filters and stride of each block.
BLOCKS = (
    *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1)),
    *((512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1)),
    *((1024, 2), (1024, 1)),
)

#: ProxylessNAS mobile: channels and stride of each stage, kernel and expansion of its blocks. The
#: search could also leave a block out; so stage 2 has two blocks and not four.
STAGES = (
    (16, 1, ((3, 1),)),
    (32, 2, ((5, 3), (3, 3))),
    (40, 2, ((7, 3), (3, 3), (5, 3), (5, 3))),
    (80, 2, ((7, 6), (5, 3), (5, 3), (5, 3))),
    (96, 1, ((5, 6), (5, 3), (5, 3), (5, 3))),
    (192, 2, ((7, 6), (7, 6), (7, 3), (7, 3))),
    (320, 1, ((7, 6),)),
)


class MobileNetV1(nn.Module):
    """MobileNet as Google trained it: a 3×3 convolution, 13 depthwise-separable blocks, a layer.

    4,231,976 parameters and 568,740,352 MACs for 1,000 classes and images of 3×224×224. The paper's
    top-1 accuracy of 70.9 % belongs to this variant: ReLU6, and strided convolutions padded below
    and to the right alone, as TensorFlow pads images of even size. Common PyTorch versions pad all
    around and have ReLU: their weights are of another network. Images of 32×32 or larger, (images,
    channels, height, width) → (images, classes).

    Howard et al., "MobileNets" (2017), Table 1.
    """

    def __init__(self, *, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.stem = Unit(channels, 32, 3, 2, beside=False)  # (32, height/2, width/2)
        inputs, blocks = 32, []
        for outputs, stride in BLOCKS:
            blocks.append(Separable(inputs, outputs, stride))
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)  # (1024, height/32, width/32)
        self.fc = nn.Linear(inputs, classes)
        he_(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.blocks(x)
        return self.fc(x.mean((2, 3)))


class ProxylessNAS(nn.Module):
    """ProxylessNAS mobile, found by search for speed on a phone: 20 inverted residuals.

    4,080,512 parameters and 320,427,584 MACs for 1,000 classes and images of 3×224×224; 74.59 %
    top-1 accuracy. Images of any size are read, (images, channels, height, width) →
    (images, classes).

    Cai, Zhu, Han, "ProxylessNAS" (ICLR 2019), Figure 4; kernels and expansions as in the authors'
    ``proxyless_mobile.config``.
    """

    def __init__(self, *, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        self.stem = Unit(channels, 32, 3, 2)  # (32, height/2, width/2)
        inputs, stages = 32, []
        for outputs, stride, blocks in STAGES:
            stage = []
            for number, (kernel, expansion) in enumerate(blocks):
                step = stride if number == 0 else 1
                stage.append(InvertedResidual(inputs, outputs, kernel, step, expansion))
                inputs = outputs
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)  # (320, height/32, width/32)
        self.mix = Unit(inputs, 1280, 1)
        self.fc = nn.Linear(1280, classes)
        he_(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.stages(x)
        x = self.mix(x)
        return self.fc(x.mean((2, 3)))


class Separable(nn.Module):
    """A depthwise 3×3 convolution, then a 1×1 one; BatchNorm and ReLU6 after each."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = Unit(inputs, inputs, 3, stride, groups=inputs, beside=stride == 1)
        self.pointwise = Unit(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class InvertedResidual(nn.Module):
    """1×1 to ``expansion`` times the channels, depthwise, 1×1 back; plus the input of one shape.

    Nothing follows the last BatchNorm: Sandler et al., "MobileNetV2" (CVPR 2018), Section 3.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = expansion * inputs
        self.expand = nn.Identity() if expansion == 1 else Unit(inputs, inner, 1)
        self.depthwise = Unit(inner, inner, kernel, stride, groups=inner)
        self.project = Unit(inner, outputs, 1, activation=False)
        self.same = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.same else y


class Unit(nn.Module):
    """A convolution, BatchNorm and, with ``activation``, ReLU6.

    It pads so that a stride of 1 keeps the size: on all sides or, if not ``beside``, one row below
    and one column to the right.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        beside: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.pad = nn.Identity() if beside else nn.ZeroPad2d((0, 1, 0, 1))
        padding = kernel // 2 if beside else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=EPSILON)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(self.pad(x)))
        return functional.relu6(y) if self.activation else y
