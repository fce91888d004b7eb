"""Who takes the filters of whom."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

#: What multiplies what it reads with weights: its filters may leave, and those that it reads.
LAYERS = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, nn.RNNBase)

#: What has numbers of its own for each channel, and leaves the channels apart.
NORMS = _NormBase


class Feed(NamedTuple):
    """Whose filters are a layer's inputs, of all or of a part of them."""

    source: str
    per_filter: int  # 1; after flattening the places that a filter was computed at


@dataclass(frozen=True, kw_only=True)
class Structure:
    """Whose filters may leave, and who takes them: what :func:`lib.structured.structure` returns.

    sources : prunable layer → its filters; of a recurrent layer the units, which leave all of its
        layers and directions.
    joined : layer → the prunable layer with whose filters its own leave, because a sum or a product
        joins them.
    feeds : layer → the prunable layers whose filters it reads, also past depthwise ones, the one
        that comes first of those that are joined. c_in = a constant + Σ per_filter · filters.
        Layers that read nothing that may leave are left out, and depthwise convolutions.
    depthwise : depthwise convolution → the prunable layer whose filters are its channels.
    norms : prunable layer → the normalisations that take its filters, past depthwise layers too.
    channels : layer that takes filters → the prunable layer → which of its filters each channel is,
        −1 for what is none of them.
    stays : layer → why its filters stay.
    """

    sources: dict[str, int] = field(default_factory=dict)
    joined: dict[str, str] = field(default_factory=dict)
    feeds: dict[str, tuple[Feed, ...]] = field(default_factory=dict)
    depthwise: dict[str, str] = field(default_factory=dict)
    norms: dict[str, list[str]] = field(default_factory=dict)
    channels: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    stays: dict[str, str] = field(default_factory=dict)

    def members(self, source: str) -> list[str]:
        """The layers whose filters leave together, ``source`` first."""
        return [source, *(name for name, leader in self.joined.items() if leader == source)]

    def followers(self, source: str) -> list[str]:
        """The depthwise convolutions that have its filters."""
        return [name for name, leader in self.depthwise.items() if leader == source]

    def in_order(self, name: str, source: str) -> bool:
        """Whether all channels of a layer are the filters of ``source``, as many each, in order."""
        numbers = self.channels[name][source]
        expected = torch.arange(len(numbers)) * self.sources[source] // len(numbers)
        return torch.equal(numbers, expected)


def is_depthwise(module: nn.Module) -> bool:
    """Whether each of its channels is made of one: as many groups as inputs and as outputs."""
    return (
        isinstance(module, CONVOLUTIONS)
        and module.groups == module.in_channels == module.out_channels > 1
    )


def filters_of(layer: Any) -> int:
    """How many filters, neurons or hidden units it has."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.hidden_size if isinstance(layer, nn.RNNBase) else layer.out_channels


def inputs_of(layer: Any) -> int:
    """How many channels or features it reads."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    return layer.input_size if isinstance(layer, nn.RNNBase) else layer.in_channels


def whole(model: nn.Module, *, frozen: bool = False) -> dict[str, str]:
    """Layer → why it cannot change: not trained (unless ``frozen``), ignored, shared, or computed.

    A weight is computed where a parametrization, or a hook as of weight normalisation, makes it of
    other parameters.
    """
    owners: dict[int, int] = {}
    modules = dict(model.named_modules())
    for module in modules.values():
        for parameter in module._parameters.values():
            owners[id(parameter)] = owners.get(id(parameter), 0) + (parameter is not None)
    found = {}
    for name, module in modules.items():
        own = [each for each in module._parameters.values() if each is not None]
        if not isinstance(module, (*LAYERS, NORMS, nn.PReLU)):
            continue
        if getattr(module, "ignored", False):
            found[name] = "is ignored, as asked"
        elif hasattr(module, "parametrizations") or _computed(module):
            found[name] = "has a weight that is computed from other parameters"
        elif any(owners[id(each)] > 1 for each in own):
            found[name] = "shares its weights with another layer"
        elif not frozen and not all(each.requires_grad for each in own):
            found[name] = "is frozen"
    return found


def _computed(module: nn.Module) -> bool:
    weights = [name for name in vars(module) if name.startswith("weight")]
    return any(isinstance(vars(module)[name], Tensor) for name in weights)
