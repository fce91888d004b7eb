"""Residual networks for CIFAR: He et al., "Deep Residual Learning" (CVPR 2016)."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

from lib.networks.initialisation import he_


class CifarResNet(nn.Module):
    """ResNet-(6n + 2) of Section 4.2: a 3×3 convolution, 3 stages of n blocks, a linear layer.

    The stages have 16, 32 and 64 channels; the second and the third halve height and width.
    Shortcuts between different shapes are the paper's A: zeros for the channels that are missing.

    Parameters and MACs, for 10 classes and images of 3×32×32 (ResNet-8: 1×16×16):

    ========== ============ ==============
    network      parameters           MACs
    ========== ============ ==============
    ResNet-8         75,002      2,986,624
    ResNet-20       269,722     40,551,040
    ResNet-56       853,018    125,485,696
    ========== ============ ==============

    Images of any size are read, (images, channels, height, width) → (images, classes).
    Raises ``ValueError`` for another depth.
    """

    def __init__(self, depth: int, *, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth {depth} is not 6n + 2: choose 8, 14, 20, 26, 32, …")
        conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        stem = OrderedDict(conv=conv, bn=nn.BatchNorm2d(16), relu=nn.ReLU())
        self.stem = nn.Sequential(stem)  # (16, height, width)
        self.stage1 = _stage(16, 16, blocks, 1)
        self.stage2 = _stage(16, 32, blocks, 2)  # (32, height/2, width/2)
        self.stage3 = _stage(32, 64, blocks, 2)  # (64, height/4, width/4)
        self.fc = nn.Linear(64, classes)
        he_(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        x = self.stage1(x)
        x = self.stage2(x)
        x = self.stage3(x)
        return self.fc(x.mean((2, 3)))


class BasicBlock(nn.Module):
    """y = relu(F(x) + shortcut(x)), F two 3×3 convolutions with BatchNorm: eq. 1 and 2."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ZeroPadShortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + self.shortcut(x))


class ZeroPadShortcut(nn.Module):
    """Every ``stride``-th row and column; new channels are zero, half on each side."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.before, self.after))


def resnet50(*, classes: int = 10, channels: int = 3) -> nn.Module:
    """torchvision's ResNet-50 with a stem for small images: 3×3 with stride 1, no max pooling.

    23,520,842 parameters and 1,297,829,888 MACs for 10 classes and images of 3×32×32. The 3×3
    convolution of a block has the stride, not its first 1×1 one as in the paper. Weights are drawn
    from 𝒩(0, 2/n), n the fan-out, as torchvision does; its names of layers are kept too.
    """
    from torchvision import models  # a second that other networks need not wait

    model = models.resnet50(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks one after the other; the first changes the shape."""
    others = (BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *others)
