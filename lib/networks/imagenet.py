"""The ImageNet networks of the papers' tables that torchvision has, its names of layers kept.

Weights are drawn as torchvision draws them, the same ones from the same seed.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from lib.networks.mobile import MobileNetV1, ProxylessNAS


def alexnet(*, classes: int = 1000, channels: int = 3) -> nn.Module:
    """AlexNet with dropout of 0.5 before both hidden linear layers, as the ADMM paper trains it.

    61,100,840 parameters and 714,188,480 MACs for 1,000 classes and images of 3×224×224, 63×63 at
    least. It is the variant of one GPU, without normalisation: Krizhevsky, "One weird trick for
    parallelizing convolutional neural networks" (2014).
    """
    return _torchvisions("alexnet", "features.0", classes, channels, dropout=0.5)


def resnet18(*, classes: int = 1000, channels: int = 3) -> nn.Module:
    """ResNet-18, with the 7×7 stem and pooling of ImageNet.

    11,689,512 parameters and 1,814,073,344 MACs for 1,000 classes and images of 3×224×224.
    He et al., "Deep Residual Learning" (CVPR 2016), Table 1.
    """
    return _torchvisions("resnet18", "conv1", classes, channels)


def resnet50(*, classes: int = 1000, channels: int = 3) -> nn.Module:
    """ResNet-50, with the 7×7 stem and pooling of ImageNet.

    25,557,032 parameters and 4,089,184,256 MACs for 1,000 classes and images of 3×224×224. The
    3×3 convolution of a block has the stride, not its first 1×1 one as in the paper: He et al.,
    "Deep Residual Learning" (CVPR 2016), Table 1, which counts 3.8 G so.
    """
    return _torchvisions("resnet50", "conv1", classes, channels)


def mobilenetv2(*, classes: int = 1000, channels: int = 3) -> nn.Module:
    """MobileNetV2 of width 1; dropout of 0.2 before its linear layer.

    3,504,872 parameters and 300,774,272 MACs for 1,000 classes and images of 3×224×224.
    Sandler et al., "MobileNetV2" (CVPR 2018), Table 2.
    """
    return _torchvisions("mobilenet_v2", "features.0.0", classes, channels)


def mnasnet(*, classes: int = 1000, channels: int = 3) -> nn.Module:
    """MnasNet-B1 of width 1, the one without squeeze and excitation; dropout of 0.2.

    4,383,312 parameters and 314,415,872 MACs for 1,000 classes and images of 3×224×224. Its
    BatchNorm moves the running statistics by 0.0003 a step: from random weights an evaluation needs
    thousands of steps before. Tan et al., "MnasNet" (CVPR 2019), Figure 7 and Table 1.
    """
    from lib.networks.mnasnet import MnasNet

    return _for_channels(MnasNet(1.0, num_classes=classes), "layers.0", channels)


#: Name → builder, called with ``classes`` and ``channels``.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "alexnet": alexnet,
    "resnet18-imagenet": resnet18,
    "resnet50-imagenet": resnet50,
    "mobilenetv1": MobileNetV1,
    "mobilenetv2": mobilenetv2,
    "mnasnet": mnasnet,
    "proxylessnas-mobile": ProxylessNAS,
}


def _torchvisions(name: str, first: str, classes: int, channels: int, **options) -> nn.Module:
    """torchvision's network ``name``, whose first layer is ``first``."""
    from torchvision import models

    model = getattr(models, name)(weights=None, num_classes=classes, **options)
    return _for_channels(model, first, channels)


def _for_channels(model: nn.Module, name: str, channels: int) -> nn.Module:
    """``model`` for images of ``channels`` channels: unless they are 3, ``name`` is drawn anew."""
    old: Any = model.get_submodule(name)
    if channels == old.in_channels:
        return model
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
    )
    if new.bias is None:  # all but AlexNet
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    return model
