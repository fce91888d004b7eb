"""Removes filters, along Torch-Pruning's dependency graph.

Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning" (CVPR 2023). The graph takes an
operation it does not know for an element-wise one: on a zero-padding shortcut it overlooks that the
channels move, and removes the wrong ones without a word. So what may be removed is listed here, and
what a removal passes through is checked.
"""

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lib.networks.resnet import BasicBlock, CifarResNet
from lib.networks.vgg import VGG16
from lib.projections.knapsack import integers

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph
    from torch_pruning.dependency import Group

#: The filters of a layer that stay: a bool each, or their indices.
Keep = Tensor | Sequence[bool] | Sequence[int]

#: Operations that leave the channels in their places, and zero where they were zero. The transpose
#: is a linear layer's, of its weight; the clone comes with flattening channels-last images.
KNOWN = (
    "AdaptiveAvgPool2DBackward0",
    "AvgPool2DBackward0",
    "CloneBackward0",
    "MaxPool2DWithIndicesBackward0",
    "MeanBackward1",
    "ReluBackward0",
    "ReshapeAliasBackward0",
    "TBackward0",
    "TanhBackward0",
    "UnsafeViewBackward0",
    "ViewBackward0",
)


class Feed(NamedTuple):
    """What ``feeds`` returns of a layer: c_in = per_filter · (filters of ``source``)."""

    source: str
    per_filter: int  # 1; after flattening the places that a filter was computed at


def prunable(model: nn.Module) -> list[str]:
    """The layers whose filters may leave one by one, in the network's order.

    - residual networks: each block's convolutions but the last, whose filters a sum joins to those
      of other blocks;
    - VGG-16: every convolution;
    - a sequence of layers, as the LeNets: every convolution and linear layer but the classifier.

    A layer that is in factors is not among them: filters leave first. Raises ``ValueError`` for
    another network.
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
    if isinstance(model, nn.Sequential):
        *before, _ = model.named_children()
        return [name for name, layer in before if isinstance(layer, (nn.Conv2d, nn.Linear))]
    raise ValueError(
        f"which filters of a {type(model).__name__} may leave is not known: say so in prunable()"
    )


def _residual() -> tuple[tuple[type, ...], dict[type, tuple[str, ...]]]:
    """Residual networks; and of a block all convolutions but the last, which a sum joins to others.

    torchvision's are there only if whoever made one imported them, which takes a second.
    """
    networks, inside = (CifarResNet,), {BasicBlock: ("conv1",)}
    if theirs := sys.modules.get("torchvision.models.resnet"):
        networks += (theirs.ResNet,)
        inside |= {theirs.BasicBlock: ("conv1",), theirs.Bottleneck: ("conv1", "conv2")}
    return networks, inside


def remove_filters(
    model: nn.Module, keep: Mapping[str, Keep], *, input_shape: tuple[int, ...]
) -> nn.Module:
    """A smaller copy of ``model``, which has the filters in ``keep`` alone.

    In evaluation mode its outputs are those of the network whose other filters, with their biases
    and the scales and shifts of their BatchNorm, are zero: exact, to the order of summation.

    Parameters
    ----------
    keep : layer name → the filters (neurons of a linear layer) that stay, as a bool for each or as
        indices, whose order does not matter. Layers of ``prunable``; those left out keep all.
    input_shape : (channels, height, width) of an image.

    Device, dtypes, modes and what is trained are as in ``model``, which does not change. One
    forward pass.

    Raises ``ValueError`` that names the layer: not prunable, nothing kept, indices out of range or
    twice, or an operation after it which may mix channels or does not leave a zero zero.
    ``ModuleNotFoundError`` without Torch-Pruning.
    """
    check_names(model, keep)
    removed = {
        name: _removed(name, kept, model.get_submodule(name).weight.shape[0])
        for name, kept in keep.items()
    }
    smaller = copy.deepcopy(model)
    graph = _graph(smaller, input_shape)
    for name, filters in removed.items():
        if filters:
            _group(graph, name, filters).prune()
    for new, old in zip(smaller.modules(), model.modules(), strict=True):
        new.training = old.training
    for new, old in zip(smaller.parameters(), model.parameters(), strict=True):
        new.requires_grad_(old.requires_grad)
    return smaller


def feeds(model: nn.Module, *, input_shape: tuple[int, ...]) -> dict[str, Feed]:
    """Layer name → the prunable layer whose filters are its inputs.

    Layers that read something else, images or sums, are left out. One forward pass.
    Raises as ``remove_filters``.
    """
    copied = copy.deepcopy(model)
    names = {layer: name for name, layer in copied.named_modules()}
    graph = _graph(copied, input_shape)
    found = {}
    for source in prunable(model):
        filters = copied.get_submodule(source).weight.shape[0]
        for dependency, inputs in _group(graph, source, list(range(filters))):
            if graph.is_in_channel_pruning_fn(dependency.handler) and isinstance(
                dependency.target.module, (nn.Conv2d, nn.Linear)
            ):
                name = names[dependency.target.module]
                found[name] = Feed(source, len(inputs) // filters)
    return found


def norms(model: nn.Module, *, input_shape: tuple[int, ...]) -> dict[str, str]:
    """Prunable layer → the BatchNorm that takes its filters; layers without one are left out.

    One forward pass. Raises as ``remove_filters``, and for a layer with several.
    """
    copied = copy.deepcopy(model)
    names = {layer: name for name, layer in copied.named_modules()}
    graph = _graph(copied, input_shape)
    found = {}
    for source in prunable(model):
        group = _group(graph, source, [0])
        followers = {names[d.target.module] for d, _ in group if _is_norm(d.target.module)}
        if len(followers) > 1:
            raise ValueError(
                f"filters of {source!r} go to several normalisations: {', '.join(followers)}"
            )
        if followers:
            (found[source],) = followers
    return found


def group_magnitude(model: nn.Module, *, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Prunable layer → how important each of its filters is, (filters,) float32.

    Torch-Pruning's: the norm of everything that leaves with a filter, over the layer's mean. Fang,
    Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning" (CVPR 2023), Section 3.3.
    Raises as ``remove_filters``.
    """
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    copied = copy.deepcopy(model)
    graph = _graph(copied, input_shape)
    importance = GroupMagnitudeImportance(p=2)
    return {
        name: importance(
            _group(graph, name, list(range(copied.get_submodule(name).weight.shape[0])))
        ).detach()
        for name in prunable(model)
    }


def check_names(model: nn.Module, names: Mapping[str, object]) -> None:
    allowed = prunable(model)
    for name in names:
        if name not in allowed:
            raise ValueError(
                f"no single filter of {name!r} can leave this network: choose layers of "
                f"{', '.join(allowed)}"
            )


def _removed(name: str, keep: Keep, filters: int) -> list[int]:
    """Indices of the filters that ``keep`` leaves out."""
    keep = torch.as_tensor(keep).detach().cpu()
    if keep.dtype == torch.bool:
        if keep.shape != (filters,):
            raise ValueError(
                f"{name}: a mask of shape {tuple(keep.shape)} for {filters} filters; give one each"
            )
        keep = keep.nonzero().flatten()
    if keep.numel() == 0:
        raise ValueError(f"{name}: no filter is kept; keep one at least")
    kept = integers(keep.flatten(), f"{name}: indices of filters")
    if min(kept) < 0 or max(kept) >= filters or len(set(kept)) < len(kept):
        raise ValueError(f"{name}: {kept} must be different filters of 0..{filters - 1}")
    return sorted(set(range(filters)) - set(kept))


def _graph(model: nn.Module, input_shape: tuple[int, ...]) -> "DependencyGraph":
    """The dependency graph of ``model``, which is left in evaluation mode, all of it to train."""
    import torch_pruning  # here, because nothing else needs it

    model.requires_grad_(True)  # the graph is read off what autograd records
    like = next(model.parameters())
    image = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    with torch.enable_grad():
        # in a tuple: Torch-Pruning tries model(*example_inputs) first
        return torch_pruning.DependencyGraph().build_dependency(model, (image,), verbose=False)


def _group(graph: "DependencyGraph", name: str, filters: list[int]) -> "Group":
    """Everything that leaves with ``filters``, none of it joined to other filters."""
    layer = graph.model.get_submodule(name)
    remove = graph.get_pruner_of_module(layer).prune_out_channels
    group = graph.get_pruning_group(layer, remove, filters)
    for dependency, _ in group:
        node, module = dependency.target, dependency.target.module
        inputs = graph.is_in_channel_pruning_fn(dependency.handler)
        reads = isinstance(module, (nn.Conv2d, nn.Linear)) and inputs
        if not (
            module is layer
            or _is_norm(module)
            or (reads and getattr(module, "groups", 1) == 1)
            or type(node.grad_fn).__name__ in KNOWN
        ):
            raise ValueError(
                f"filters of {name!r} cannot be removed: {node.name} follows, which may mix "
                "channels or turn zeros into something else"
            )
    return group


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm)
