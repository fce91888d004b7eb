"""Removes filters, along Torch-Pruning's dependency graph.

Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning" (CVPR 2023). The graph takes an
operation it does not know for an element-wise one: on a zero-padding shortcut it overlooks that the
channels move, and removes the wrong ones without a word. So what may be removed is listed
(``lib.structured.prunable``), and what a removal passes through is checked here.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.padding import _ConstantPadNd

from lib.layers import weight_of
from lib.projections.checks import integers
from lib.structured.prunable import prunable

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
    """Whose filters are a layer's inputs: c_in = per_filter · (filters of ``source``)."""

    source: str
    per_filter: int  # 1; after flattening the places that a filter was computed at


@dataclass(frozen=True)
class Structure:
    """Who takes the filters of whom, which leave together: what :func:`structure` returns.

    feeds : layer → the prunable layer whose filters it reads, also past depthwise ones. Layers that
        read something else, images or sums, are left out, and depthwise convolutions.
    depthwise : depthwise convolution → the prunable layer whose filters are its channels.
    norms : prunable layer → the BatchNorms that take its filters, those past depthwise layers too.
    """

    feeds: dict[str, Feed] = field(default_factory=dict)
    depthwise: dict[str, str] = field(default_factory=dict)
    norms: dict[str, list[str]] = field(default_factory=dict)


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
    allowed = prunable(model)
    for name in keep:
        if name not in allowed:
            raise ValueError(
                f"no single filter of {name!r} can leave this network: choose layers of "
                f"{', '.join(allowed)}"
            )
    removed = {
        name: _removed(name, kept, len(weight_of(model, name))) for name, kept in keep.items()
    }
    smaller = copy.deepcopy(model)
    graph = _graph(smaller, input_shape)
    for name, filters in removed.items():
        if filters:
            _group(graph, name, filters).prune()
    for new, old in zip(smaller.modules(), model.modules(), strict=True):
        new.training = old.training
    for mine, given in zip(smaller.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(given.requires_grad)
    return smaller


def structure(model: nn.Module, *, input_shape: tuple[int, ...]) -> Structure:
    """Who takes the filters of whom. One forward pass. Raises as :func:`remove_filters`."""
    copied = copy.deepcopy(model)
    names = {module: name for name, module in copied.named_modules()}
    graph, found = _graph(copied, input_shape), Structure()
    for source in prunable(copied):
        layer: Any = copied.get_submodule(source)
        for dependency, channels in _group(graph, source):
            module = dependency.target.module
            if module is layer or module not in names:
                continue
            if is_depthwise(module):
                found.depthwise[names[module]] = source
            elif isinstance(module, _BatchNorm):
                found.norms.setdefault(source, []).append(names[module])
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                per_filter = len(channels) // len(layer.weight)
                found.feeds[names[module]] = Feed(source, per_filter)
    return found


def group_magnitude(model: nn.Module, *, input_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Prunable layer → how important each of its filters is, (filters,) float32.

    Torch-Pruning's: the norm of everything that leaves with a filter, over the layer's mean; of
    kernels of depthwise convolutions it takes no account. Fang, Ma, Song, Mi, Wang, "DepGraph:
    Towards Any Structural Pruning" (CVPR 2023), Section 3.3. Raises as ``remove_filters``.
    """
    from torch_pruning.pruner.importance import GroupMagnitudeImportance

    copied = copy.deepcopy(model)
    graph = _graph(copied, input_shape)
    importance = GroupMagnitudeImportance(p=2)
    return {name: importance(_group(graph, name)).detach() for name in prunable(model)}


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


def _group(graph: "DependencyGraph", name: str, filters: list[int] | None = None) -> "Group":
    """Everything that leaves with ``filters`` (None: all), none of it joined to other filters."""
    layer = graph.model.get_submodule(name)
    filters = [*range(len(layer.weight))] if filters is None else filters
    remove = graph.get_pruner_of_module(layer).prune_out_channels
    group = graph.get_pruning_group(layer, remove, filters)
    for dependency, _ in group:
        node, module = dependency.target, dependency.target.module
        inputs = graph.is_in_channel_pruning_fn(dependency.handler)
        reads = isinstance(module, (nn.Conv2d, nn.Linear)) and inputs
        if not (
            module is layer
            or isinstance(module, _BatchNorm)
            or is_depthwise(module)
            or (reads and getattr(module, "groups", 1) == 1)
            or _keeps_zeros(node.grad_fn, graph.model)
        ):
            raise ValueError(
                f"filters of {name!r} cannot be removed: {node.name} follows, which may mix "
                "channels or turn zeros into something else"
            )
    return group


def _keeps_zeros(operation: Any, model: nn.Module) -> bool:
    """Whether it leaves the channels in their places, and zero where they were zero."""
    kind = type(operation).__name__
    if kind == "HardtanhBackward0":  # ReLU6
        return operation._saved_min_val <= 0 <= operation._saved_max_val
    if kind == "ConstantPadNdBackward0":  # of height and width; the value is not noted
        images = len(operation._input_metadata[0].shape) == 4
        values = {m.value for m in model.modules() if isinstance(m, _ConstantPadNd)}
        return images and len(operation._saved_pad) <= 4 and values <= {0}
    return kind in KNOWN


def is_depthwise(module: nn.Module) -> bool:
    """Whether each of its channels is made of one: as many groups as inputs and as outputs."""
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == module.in_channels == module.out_channels > 1
    )
