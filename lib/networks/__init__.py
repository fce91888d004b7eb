"""The networks that are compressed, by name; one file a family."""

from collections.abc import Callable
from functools import partial

from torch import nn

from lib.networks import imagenet
from lib.networks.lenet import lenet5, lenet300
from lib.networks.resnet import CifarResNet, resnet50
from lib.networks.vgg import VGG16

#: Called with ``classes`` and ``channels``. "-b" are the ResNets with projections for shortcuts;
#: "resnet50" has the stem for small images, "resnet50-imagenet" the paper's.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "lenet5": lenet5,
    "lenet300": lenet300,
    "lenet300-tanh": partial(lenet300, activation=nn.Tanh),
    **{f"resnet{depth}": partial(CifarResNet, depth) for depth in (8, 20, 32, 56, 110)},
    **{
        f"resnet{depth}-b": partial(CifarResNet, depth, shortcut="B")
        for depth in (8, 20, 32, 56, 110)
    },
    "resnet50": resnet50,
    "vgg16": VGG16,
    **imagenet.NETWORKS,
}

#: Channels, height and width of what each network reads.
INPUT_SHAPES = dict.fromkeys(BUILDERS, (3, 32, 32)) | {
    **dict.fromkeys(("lenet5", "lenet300", "lenet300-tanh"), (1, 28, 28)),
    "resnet8": (1, 16, 16),
    "resnet8-b": (1, 16, 16),
    **dict.fromkeys(imagenet.NETWORKS, (3, 224, 224)),
}


def build(name: str, *, classes: int = 10, channels: int | None = None) -> nn.Module:
    """A freshly initialised network for images of ``channels`` channels, its usual number if None.

    It draws from PyTorch's global generator. Raises ``ValueError`` for an unknown name.
    """
    if name not in BUILDERS:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(BUILDERS)}")
    channels = INPUT_SHAPES[name][0] if channels is None else channels
    return BUILDERS[name](classes=classes, channels=channels)
