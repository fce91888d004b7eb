"""How the weights of a new network are drawn."""

from collections.abc import Iterator

from torch import nn


def he_(model: nn.Module) -> None:
    """Draws every convolution and linear layer from 𝒩(0, 2/n), n its fan-in; biases are zero.

    BatchNorm keeps PyTorch's start, scale 1 and shift 0. Of the two scalings that the paper finds
    sufficient this is its first, over inputs, as in the common CIFAR implementation of ResNet
    (akamaster/pytorch_resnet_cifar10); torchvision scales by the fan-out.
    He et al., "Delving Deep into Rectifiers" (ICCV 2015), eq. 10.
    """
    for module in _drawn(model):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def glorot_(model: nn.Module) -> None:
    """Draws every convolution and linear layer uniformly from ±√(6/(n + m)); biases are zero.

    n is its fan-in, m its fan-out.
    Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks"
    (AISTATS 2010), eq. 16.
    """
    for module in _drawn(model):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _drawn(model: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    """The layers that have values: on the meta device there are none, and PyTorch takes seconds."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not module.weight.is_meta:
            yield module
