"""Which filters may leave a network: said of each kind of network here, not guessed from its graph.

A filter that a sum joins to those of other layers stays.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import nn

from lib.networks.resnet import BasicBlock, CifarResNet
from lib.networks.vgg import VGG16

#: Networks whose modules are called in the order they have, each with what the one before returns.
#: File → their classes; and the classes of their blocks, each with the attribute that says whether
#: what it reads is added to what it returns. torchvision's are there only if whoever made one
#: imported them, which takes a second.
CHAINS = {
    "lib.networks.mobile": (
        ("MobileNetV1", "ProxylessNAS"),
        {"Unit": None, "Separable": None, "InvertedResidual": "same"},
    ),
    "torchvision.models.alexnet": (("AlexNet",), {}),
    "torchvision.models.mobilenetv2": (("MobileNetV2",), {"InvertedResidual": "use_res_connect"}),
    "torchvision.models.mnasnet": (("MNASNet",), {"_InvertedResidual": "apply_residual"}),
}


class Part(NamedTuple):
    """One of the parts that a network is a chain of: each reads what the one before returns."""

    layers: list[str]  # convolutions and linear layers in order, also grouped, also in factors
    joined: bool  # whether what it reads is added to what its last layer returns, or may be


def prunable(model: nn.Module) -> list[str]:
    """The layers whose filters may leave one by one, in the network's order.

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
    first. Raises ``ValueError`` for another network.
    """
    residual, inside = _residual()
    if isinstance(model, residual):
        return [
            f"{name}.{inner}"
            for name, block in model.named_modules()
            for inner in inside.get(type(block), ())
            if isinstance(getattr(block, inner), nn.Conv2d)
        ]
    if isinstance(model, VGG16):
        return [
            f"{stage}.{name}"
            for stage, children in model.named_children()
            for name, layer in children.named_children()
            if isinstance(layer, nn.Conv2d)
        ]
    chains, blocks = _chains()
    if not isinstance(model, (nn.Sequential, *chains)):
        raise ValueError(
            f"which filters of a {type(model).__name__} may leave is not known: say so in "
            "prunable()"
        )
    parts = list(_parts(model, blocks))
    found = []
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        # what the last one returns is the network's output
        joined = following is None or part.joined or following.joined
        found += part.layers[:-1] if joined else part.layers
    return [name for name in found if _is_one(model.get_submodule(name))]


def _residual() -> tuple[tuple[type, ...], dict[type, tuple[str, ...]]]:
    """Residual networks; and of a block all convolutions but the last, which a sum joins to others.

    torchvision's are there only if whoever made one imported them, which takes a second.
    """
    networks, inside = (CifarResNet,), {BasicBlock: ("conv1",)}
    if theirs := sys.modules.get("torchvision.models.resnet"):
        networks += (theirs.ResNet,)
        inside |= {theirs.BasicBlock: ("conv1",), theirs.Bottleneck: ("conv1", "conv2")}
    return networks, inside


def _chains() -> tuple[tuple[type, ...], dict[type, str | None]]:
    """The classes in ``CHAINS`` that were imported: of networks, and of blocks."""
    networks, blocks = [], {}
    for file, (names, inside) in CHAINS.items():
        if module := sys.modules.get(file):
            networks += [getattr(module, name) for name in names]
            blocks |= {getattr(module, name): attribute for name, attribute in inside.items()}
    return tuple(networks), blocks


def _parts(
    module: nn.Module, blocks: Mapping[type, str | None], prefix: str = ""
) -> Iterator[Part]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if type(child) in blocks:
            inside = [n for part in _parts(child, blocks, f"{path}.") for n in part.layers]
            attribute = blocks[type(child)]
            yield Part(inside, attribute is not None and getattr(child, attribute))
        elif type(child).forward is nn.Sequential.forward and not _in_factors(child):
            yield from _parts(child, blocks, f"{path}.")
        elif any(isinstance(m, (nn.Conv2d, nn.Linear)) for m in child.modules()):
            yield Part([path], type(child) not in (nn.Conv2d, nn.Linear, nn.Sequential))


def _in_factors(module: nn.Sequential) -> bool:
    """Whether it stands for a layer: two layers of one kind, with nothing between."""
    return [type(child) for child in module] in ([nn.Conv2d] * 2, [nn.Linear] * 2)


def _is_one(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv2d, nn.Linear)) and getattr(module, "groups", 1) == 1
