"""Takes filters out of a network, or silences them: both must come to the same."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib.structured.graph import CONVOLUTIONS, NORMS, TRANSPOSED, Structure, is_depthwise


@torch.no_grad()
def cut(model: nn.Module, found: Structure, keep: Mapping[str, Tensor]) -> None:
    """Removes the filters that ``keep`` (of a layer of ``found.sources`` a bool each) leaves out.

    In place; parameters that change are new, and as before trained or not.
    """
    for source, kept in keep.items():
        for name in found.members(source):
            take_filters(model.get_submodule(name), kept.nonzero().flatten())
    for name, parts in found.channels.items():
        left = _left(parts, keep)
        if not left.all():
            take_channels(model.get_submodule(name), left.nonzero().flatten())


@torch.no_grad()
def silence(model: nn.Module, found: Structure, keep: Mapping[str, Tensor]) -> None:
    """Zeroes, in place, the filters that :func:`cut` would remove, and what would shift them."""
    for source, kept in keep.items():
        for name in found.members(source):
            layer: Any = model.get_submodule(name)
            for parameter, dimension in filter_dimensions(layer).items():
                value = getattr(layer, parameter)
                count = value.shape[dimension] // len(kept)  # gates of a recurrent layer
                _zero(value, dimension, ~kept.repeat(count))
    for name, parts in found.channels.items():
        layer = model.get_submodule(name)
        if isinstance(layer, NORMS) or is_depthwise(layer):
            for value in layer._parameters.values():
                if value is not None:
                    _zero(value, 0, ~_left(parts, keep))


def filter_dimensions(layer: Any) -> dict[str, int]:
    """Of its parameters that have something for each filter, where that is."""
    if isinstance(layer, nn.RNNBase):
        return dict.fromkeys((n for n in layer._parameters if n.startswith(("weight", "bias"))), 0)
    found = {"weight": 1 if isinstance(layer, TRANSPOSED) else 0}
    return found | ({"bias": 0} if layer.bias is not None else {})


def input_dimensions(layer: Any) -> dict[str, int]:
    """Of its parameters that have something for each channel that it reads, where that is."""
    if isinstance(layer, nn.RNNBase):
        return dict.fromkeys((n for n in layer._parameters if n.startswith("weight_ih_l0")), 1)
    return {"weight": 0 if isinstance(layer, TRANSPOSED) else 1}


def take_filters(layer: Any, kept: Tensor) -> None:
    """Leaves the filters, neurons or units of these numbers."""
    if isinstance(layer, nn.RNNBase):
        _take_units(layer, kept)
        return
    for name, dimension in filter_dimensions(layer).items():
        _take(layer, name, dimension, kept)
    setattr(layer, "out_features" if isinstance(layer, nn.Linear) else "out_channels", len(kept))


def take_channels(layer: Any, kept: Tensor) -> None:
    """Leaves of what ``layer`` reads the channels of these numbers."""
    if is_depthwise(layer) or isinstance(layer, (NORMS, nn.PReLU)):
        for name in [*layer._parameters, *layer._buffers]:
            value = getattr(layer, name)
            if value is not None and value.dim():
                _take(layer, name, 0, kept)
        sizes: tuple[str, ...] = ("in_channels", "out_channels", "groups")
        if not isinstance(layer, CONVOLUTIONS):
            sizes = ("num_features",) if isinstance(layer, NORMS) else ("num_parameters",)
    else:
        for name, dimension in input_dimensions(layer).items():
            _take(layer, name, dimension, kept)
        sizes = ("in_channels",)
        if isinstance(layer, (nn.Linear, nn.RNNBase)):
            sizes = ("in_features" if isinstance(layer, nn.Linear) else "input_size",)
    for size in sizes:
        setattr(layer, size, len(kept))


def _take_units(layer: nn.RNNBase, kept: Tensor) -> None:
    """A unit leaves every gate, layer and direction."""
    units = layer.hidden_size
    for name in list(layer._parameters):
        value = getattr(layer, name)
        rows = _blocks(kept, units, value.shape[0] // units)
        value = value.index_select(0, rows.to(value.device))
        if name.startswith("weight") and not name.startswith("weight_ih_l0"):
            columns = _blocks(kept, units, value.shape[1] // units)
            value = value.index_select(1, columns.to(value.device))
        _put(layer, name, value)
    layer.hidden_size = len(kept)
    layer.flatten_parameters()


def _blocks(kept: Tensor, length: int, count: int) -> Tensor:
    """``kept`` in each of ``count`` blocks of ``length``."""
    return torch.cat([kept + length * block for block in range(count)])


def _take(layer: nn.Module, name: str, dimension: int, kept: Tensor) -> None:
    value: Any = getattr(layer, name)
    _put(layer, name, value.index_select(dimension, kept.to(value.device)))


def _put(layer: nn.Module, name: str, value: Tensor) -> None:
    before: Any = getattr(layer, name)
    last = before.dim() == 4 and not before.is_contiguous()
    last = last and before.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    value = value.detach().contiguous(memory_format=form)
    if isinstance(before, nn.Parameter):
        value = nn.Parameter(value, requires_grad=before.requires_grad)
    setattr(layer, name, value)


def _zero(value: Tensor, dimension: int, gone: Tensor) -> None:
    value.index_fill_(dimension, gone.nonzero().flatten().to(value.device), 0)


def _left(parts: Mapping[str, Tensor], keep: Mapping[str, Tensor]) -> Tensor:
    """Which channels are left: those of filters that stay, and of what else there is."""
    left = torch.ones_like(next(iter(parts.values())), dtype=torch.bool)
    for source, numbers in parts.items():
        if source in keep:
            left &= (numbers < 0) | keep[source][numbers.clamp_min(0)]
    return left
