"""Which filters leave the networks of the catalogue: said of each kind of network here.

A filter that a sum joins to those of other layers stays.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

#: Classes by their paths, which cost no import. Networks of blocks whose last convolution a sum
#: joins to those of other blocks; and of each block the convolutions before it.
RESIDUAL = {"lib.networks.resnet.CifarResNet", "torchvision.models.resnet.ResNet"}
INSIDE = {
    "lib.networks.resnet.BasicBlock": ("conv1",),
    "torchvision.models.resnet.BasicBlock": ("conv1",),
    "torchvision.models.resnet.Bottleneck": ("conv1", "conv2"),
}

#: Networks whose modules are called in the order they have, each with what the one before returns;
#: and their blocks, each with the attribute that says whether what it reads is added to what it
#: returns.
VGG = "lib.networks.vgg.VGG16"
CHAINS = {
    *("torch.nn.modules.container.Sequential", VGG),
    *("lib.networks.mobile.MobileNetV1", "lib.networks.mobile.ProxylessNAS"),
    *("torchvision.models.alexnet.AlexNet", "torchvision.models.mobilenetv2.MobileNetV2"),
    "torchvision.models.mnasnet.MNASNet",
}
BLOCKS = {
    "lib.networks.mobile.Unit": None,
    "lib.networks.mobile.Separable": None,
    "lib.networks.mobile.InvertedResidual": "same",
    "torchvision.models.mobilenetv2.InvertedResidual": "use_res_connect",
    "torchvision.models.mnasnet._InvertedResidual": "apply_residual",
}


class Part(NamedTuple):
    """One of the parts that a network is a chain of: each reads what the one before returns."""

    layers: list[str]  # convolutions and linear layers in order, also grouped, also in factors
    joined: bool  # whether what it reads is added to what its last layer returns, or may be


def listed(model: nn.Module) -> list[str] | None:
    """The layers whose filters may leave one by one, in the network's order; None if not known.

    - residual networks, ours and torchvision's: each block's convolutions but the last, whose
      filters a sum joins to those of other blocks;
    - MobileNetV1, ProxylessNAS, torchvision's MobileNetV2 and MNASNet: the convolutions that expand
      a block's channels; those that end a block, or stand alone, where neither it nor what follows
      has a shortcut;
    - VGG-16: every convolution;
    - torchvision's AlexNet, and sequences, as the LeNets: every convolution and linear layer but
      the classifier, and but one that another kind of module with layers follows.

    Depthwise convolutions are not among them: their channels are the filters of the layer before,
    and leave with those. Nor are other grouped convolutions, and layers in factors: filters leave
    first.
    """
    kinds = {_path(kind) for kind in type(model).__mro__}
    if kinds & RESIDUAL:
        found = [
            f"{name}.{inner}"
            for name, block in model.named_modules()
            for inner in INSIDE.get(_path(type(block)), ())
        ]
    elif kinds & CHAINS:
        parts, found = list(_parts(model)), []
        for part, following in zip(parts, [*parts[1:], None], strict=True):
            # what the last one returns is the network's output
            joined = following is None or part.joined or following.joined
            found += part.layers[:-1] if joined else part.layers
    else:
        return None
    alone = nn.Conv2d if VGG in kinds else (nn.Conv2d, nn.Linear)
    layers = {name: model.get_submodule(name) for name in found}
    return [
        name
        for name, layer in layers.items()
        if isinstance(layer, alone) and getattr(layer, "groups", 1) == 1
    ]


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _parts(module: nn.Module, prefix: str = "") -> Iterator[Part]:
    for name, child in module.named_children():
        path, kind = f"{prefix}{name}", _path(type(child))
        if kind in BLOCKS:
            inside = [n for part in _parts(child, f"{path}.") for n in part.layers]
            attribute = BLOCKS[kind]
            yield Part(inside, attribute is not None and getattr(child, attribute))
        elif type(child).forward is nn.Sequential.forward and not _in_factors(child):
            yield from _parts(child, f"{path}.")
        elif any(isinstance(m, (nn.Conv2d, nn.Linear)) for m in child.modules()):
            yield Part([path], type(child) not in (nn.Conv2d, nn.Linear, nn.Sequential))


def _in_factors(module: Any) -> bool:
    """Whether it stands for a layer: two layers of one kind, with nothing between."""
    return [type(child) for child in module] in ([nn.Conv2d] * 2, [nn.Linear] * 2)
