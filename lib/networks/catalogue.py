"""The networks by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from lib.networks import imagenet
from lib.networks.lenet import lenet5, lenet300
from lib.networks.resnet import CifarResNet, resnet50
from lib.networks.vgg import VGG16

#: Name → how it is built, of ``classes`` and ``channels``; and the channels, height and width of
#: what it reads. "resnet50" has the stem for small images, "resnet50-imagenet" the paper's.
_KNOWN: dict[str, tuple[Callable[..., nn.Module], tuple[int, int, int]]] = {
    "lenet5": (lenet5, (1, 28, 28)),
    "lenet300": (lenet300, (1, 28, 28)),
    "lenet300-tanh": (partial(lenet300, activation=nn.Tanh), (1, 28, 28)),
    "resnet8": (partial(CifarResNet, 8), (1, 16, 16)),
    "resnet20": (partial(CifarResNet, 20), (3, 32, 32)),
    "resnet56": (partial(CifarResNet, 56), (3, 32, 32)),
    "resnet50": (resnet50, (3, 32, 32)),
    "vgg16": (VGG16, (3, 32, 32)),
    **{name: (builder, (3, 224, 224)) for name, builder in imagenet.NETWORKS.items()},
}

BUILDERS = {name: builder for name, (builder, _) in _KNOWN.items()}
INPUT_SHAPES = {name: shape for name, (_, shape) in _KNOWN.items()}


def build(name: str, *, classes: int = 10, channels: int | None = None) -> nn.Module:
    """A freshly initialised network for images of ``channels`` channels, its usual number if None.

    It draws from PyTorch's global generator. Raises ``ValueError`` for an unknown name.
    """
    if name not in BUILDERS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(BUILDERS)}")
    channels = INPUT_SHAPES[name][0] if channels is None else channels
    return BUILDERS[name](classes=classes, channels=channels)
