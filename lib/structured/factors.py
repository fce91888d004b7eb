"""Makes one layer two, with r channels between them.

A convolution's weight, C_out × C_in × k × k, is a matrix in one of two ways:

    scheme 1    C_out × C_in·k²       k × k convolution to r channels, then 1 × 1
    scheme 2    C_out·k × C_in·k      k × 1 convolution to r channels, then 1 × k

Eo, Kang, Rhee, "A Differentiable Framework for End-to-End Learning of Hybrid Structured
Compression", Section 3.2.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import skip_init

from lib.layers import Given, clone
from lib.projections.checks import integers
from lib.projections.lowrank import low_rank
from lib.projections.svt import matricize
from lib.structured.macs import Layer, check_scheme, layers


def factor(
    model: nn.Module,
    ranks: Mapping[str, int | None],
    *,
    scheme: int = 1,
    input_shape: Given,
) -> nn.Module:
    """A copy of ``model`` in which each layer in ``ranks`` is two, if that costs fewer MACs.

    The two have the nearest weight of that rank, cut off from the singular values as they are, not
    shrunk: the outputs are those of the network with this weight, to rounding. Stride, padding and
    dilation are the first one's in scheme 1, split between the two in scheme 2; the bias is the
    second one's. They stand in an ``nn.Sequential`` under the layer's name. A layer stays as it is,
    rank and all, where two cost as many MACs as one or more, and where it has one channel in and
    out, as what is left of a depthwise one may.

    Parameters
    ----------
    ranks : layer name → its rank, from 1 to the smaller side of its matrix (:func:`matricize`);
        None leaves it whole. Convolutions that are not grouped and linear layers.
    scheme : 1 or 2.
    input_shape : (channels, height, width) of an image, or example inputs, at which MACs are
        counted.

    Device, dtypes, modes and what is trained are as in ``model``, which does not change. One
    forward pass, and one singular value decomposition a layer.

    Raises ``ValueError`` that names the layer: unknown, grouped, a rank out of range, NaN or
    infinite weights; and for another scheme.
    """
    check_scheme(scheme)
    costs = layers(model, input_shape=input_shape, frozen=True)
    smaller = clone(model)
    for name, rank in ranks.items():
        if name not in costs:
            raise ValueError(f"unknown layer {name!r}: choose one of {', '.join(costs)}")
        if rank is None:
            continue
        rank, cost = _checked(costs[name], rank, scheme), costs[name]
        if cost.factors() and cost.macs(rank=rank, scheme=scheme) < cost.macs():
            put(smaller, name, _two(name, smaller.get_submodule(name), rank, scheme))
    return smaller


def put(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Puts ``layer`` where the one of this name is, under all of its names."""
    old = model.get_submodule(name)
    for each, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            parent, _, leaf = each.rpartition(".")
            setattr(model.get_submodule(parent), leaf, layer)


def _checked(cost: Layer, rank: int, scheme: int) -> int:
    """``rank`` as an int, if the layer's matrix can have it."""
    if cost.groups != 1:
        raise ValueError(f"{cost.name!r} is a convolution of {cost.groups} groups: leave it whole")
    (rank,) = integers([rank], f"the rank of {cost.name!r}")
    most = cost.most(scheme=scheme)
    if not 1 <= rank <= most:
        raise ValueError(f"the rank of {cost.name!r} is {rank}, which is not in 1..{most}")
    return rank


@torch.no_grad()
def _two(name: str, layer: Any, rank: int, scheme: int) -> nn.Sequential:
    try:
        left, right = low_rank(matricize(layer.weight, scheme=scheme), rank=rank)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    two: Any = empty_factors(layer, (layer.weight.shape[1], rank, layer.weight.shape[0]), scheme)
    first, second = two
    # right is (r, C_in·k₁·k₂), in scheme 2 (r, C_in·k₁)
    first.weight.copy_(right.reshape(first.weight.shape))
    # left is (C_out, r), in scheme 2 (C_out·k₂, r)
    left = left.reshape(layer.weight.shape[0], -1, rank).transpose(1, 2)  # (C_out, r, 1 or k₂)
    second.weight.copy_(left.reshape(second.weight.shape))
    first.weight.requires_grad_(layer.weight.requires_grad)
    second.weight.requires_grad_(layer.weight.requires_grad)
    if layer.bias is not None:
        second.bias.copy_(layer.bias)
        second.bias.requires_grad_(layer.bias.requires_grad)
    return two


def empty_factors(
    layer: nn.Conv2d | nn.Linear, channels: tuple[int, int, int], scheme: int
) -> nn.Sequential:
    """The two layers that stand for ``layer``, of c_in, r and c_out channels, without values."""
    c_in, rank, c_out = channels
    first, second = ({}, {}) if isinstance(layer, nn.Linear) else _options(layer, scheme)
    return nn.Sequential(
        blank(layer, c_in, rank, bias=False, **first),
        blank(layer, rank, c_out, bias=layer.bias is not None, **second),
    ).train(layer.training)


def blank(layer: nn.Conv2d | nn.Linear, inputs: int, outputs: int, **options) -> nn.Module:
    """Another layer of its kind, dtype and device, without values: nothing is drawn for it."""
    weight = layer.weight
    place = {"dtype": weight.dtype, "device": weight.device}
    return skip_init(type(layer), inputs, outputs, **place, **options).train(layer.training)


def _options(layer: nn.Conv2d, scheme: int) -> tuple[dict, dict]:
    """Of the first and of the second convolution."""
    mode = {"padding_mode": layer.padding_mode}
    if scheme == 1:
        place = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        return {"kernel_size": layer.kernel_size, **place, **mode}, {"kernel_size": 1}
    padding = layer.padding

    def along(axis: int) -> dict:
        """Of one axis alone."""
        return mode | {
            "kernel_size": _along(axis, layer.kernel_size, 1),
            "stride": _along(axis, layer.stride, 1),
            # "same" and "valid" are right for both
            "padding": padding if isinstance(padding, str) else _along(axis, padding, 0),
            "dilation": _along(axis, layer.dilation, 1),
        }

    return along(0), along(1)


def _along(axis: int, values: tuple[int, ...], other: int) -> tuple[int, int]:
    """The value of one axis, and ``other`` for the other one."""
    return (values[0], other) if axis == 0 else (other, values[1])
