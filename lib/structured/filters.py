"""Whose filters may leave a network, whatever its class; and removes them.

Where filters go is traced (``lib.structured.traced``). Whether they may go is tried: the network
without them must return what the network returns in which they are zero, and cost what is predicted
for it. What fails stays, say filters before a sigmoid, which makes ½ of 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lib.layers import Example, Given, clone, example, fewest, is_image
from lib.projections.checks import integers
from lib.structured.cut import cut, filter_dimensions, input_dimensions
from lib.structured.graph import NORMS, Structure, is_depthwise
from lib.structured.macs import Costs, measured
from lib.structured.prunable import listed
from lib.structured.traced import trace
from lib.structured.verified import two_layers, verified

#: The filters of a layer that stay: a bool each, or their indices.
Keep = Tensor | Sequence[bool] | Sequence[int]

#: What was found of a network, with filters that leave or without, and of what it was found.
_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[bool, bool], tuple[Any, Costs]]] = (
    WeakKeyDictionary()
)


def costs(
    model: nn.Module, *, filters: bool = True, input_shape: Given, frozen: bool = False
) -> Costs:
    """What is asked once to count many choices: the layers, and if ``filters`` who follows whom.

    Parameters
    ----------
    filters : False: none is said to leave.
    input_shape : of an image, or example inputs, as of :func:`lib.layers.example`.
    frozen : layers that are not trained may change.

    Three forward passes; with ``filters`` those of :func:`structure` too. What was found of a model
    is kept as long as it stays as it is. Raises ``ValueError`` as :func:`lib.accounting.macs`.
    """
    state = [(n, tuple(v.shape), v.requires_grad) for n, v in model.named_parameters()]
    marked = [n for n, module in model.named_modules() if getattr(module, "ignored", False)]
    what = (_signature(input_shape), state, marked, str(model))
    known = _KNOWN.setdefault(model, {})
    if known.get((filters, frozen), ("",))[0] != what:
        layers, rest = measured(model, input_shape, frozen=frozen)
        found = two_layers(model, Costs(layers=layers, rest=rest), input_shape)
        if filters:
            inputs = drawn(model, input_shape, items=fewest(model))
            # of a sequence the list says nothing that is not found as well
            only = None if isinstance(model, nn.Sequential) else listed(model)
            traced = trace(model, inputs, only=only, frozen=frozen)
            found = verified(model, found, traced, drawn(model, input_shape, items=2))
        known[filters, frozen] = what, found
    return known[filters, frozen][1]


def structure(model: nn.Module, *, input_shape: Given, frozen: bool = False) -> Structure:
    """Who takes the filters of whom, and which stay and why.

    Of the networks that ``lib.structured.prunable`` lists no other filters leave than it says; of
    others all that are found to. Forward passes: two for each binary digit of the number of layers
    and of the largest number of filters, one for each layer whose filters may meet others, and of a
    copy in float64 with drawn weights some more, by which what is found is tried. Raises
    ``ValueError`` as :func:`lib.accounting.macs`.
    """
    return costs(model, input_shape=input_shape, frozen=frozen)


def prunable(model: nn.Module, input_shape: Given | None = None) -> list[str]:
    """The layers whose filters may leave one by one, in the network's order.

    By the list for the classes that ``lib.structured.prunable`` knows, where ``input_shape`` is
    None; else those of :func:`structure`. Raises ``ValueError`` for another class without it.
    """
    if input_shape is not None:
        return list(structure(model, input_shape=input_shape).sources)
    found = listed(model)
    if found is None:
        raise ValueError(
            f"which filters of a {type(model).__name__} may leave is read off a forward pass: give "
            "its input_shape, or example inputs"
        )
    return found


def remove_filters(model: nn.Module, keep: Mapping[str, Keep], *, input_shape: Given) -> nn.Module:
    """A smaller copy of ``model``, which has the filters in ``keep`` alone.

    In evaluation mode its outputs are those of the network whose other filters, with their biases
    and the scales and shifts of their normalisation, are zero: exact, to the order of summation.

    Parameters
    ----------
    keep : layer name → the filters (neurons of a linear layer, units of a recurrent one) that stay,
        as a bool for each or as indices, whose order does not matter. Layers of ``prunable``; those
        left out keep all. Frozen ones may be among them.
    input_shape : (channels, height, width) of an image, or example inputs.

    Device, dtypes, modes and what is trained are as in ``model``, which does not change. It costs
    what :func:`structure` costs.

    Raises ``ValueError`` that names the layer: not prunable, and why; nothing kept, indices out of
    range or twice.
    """
    found = structure(model, input_shape=input_shape) if keep else Structure()
    if not keep.keys() <= found.sources.keys():
        found = structure(model, input_shape=input_shape, frozen=True)
    for name in keep:
        if name not in found.sources:
            why = found.stays.get(name, "")
            if name in found.joined:
                why = f"they leave with those of {found.joined[name]!r}"
            raise ValueError(
                f"no single filter of {name!r} can leave this network{', ' * bool(why)}{why}: "
                f"choose layers of {', '.join(found.sources) or 'another one'}"
            )
    masks = {name: _mask(name, kept, found.sources[name]) for name, kept in keep.items()}
    smaller = clone(model)
    cut(smaller, found, {name: mask for name, mask in masks.items() if not mask.all()})
    return smaller


@torch.no_grad()
def group_magnitude(model: nn.Module, *, input_shape: Given) -> dict[str, Tensor]:
    """Prunable layer → how important each of its filters is, (filters,) float32.

    The squares of everything that leaves with a filter, weights and the scales of normalisation,
    over the layer's mean; kernels of depthwise convolutions count nothing. As Torch-Pruning has it:
    Fang, Ma, Song, Mi, Wang, "DepGraph: Towards Any Structural Pruning" (CVPR 2023), Section 3.3.
    Raises as :func:`structure`.
    """
    found = structure(model, input_shape=input_shape)
    scores = {}
    for source, count in found.sources.items():
        parts = []  # (squares, whose filters they are)
        for name in found.members(source):
            layer = model.get_submodule(name)
            for parameter, dimension in filter_dimensions(layer).items():
                if parameter.startswith("weight"):
                    squares = _squares(layer, parameter, dimension)
                    parts.append((squares, torch.arange(len(squares)) % count))
        for name, by in found.channels.items():
            layer = model.get_submodule(name)
            for parameter, dimension in _taken(layer).items() if source in by else ():
                parts.append((_squares(layer, parameter, dimension), by[source]))
        total = torch.zeros(count, dtype=torch.float32, device=parts[0][0].device)
        for squares, numbers in parts:
            numbers = numbers.to(total.device)
            own = numbers >= 0
            total.scatter_add_(0, numbers[own], squares[own].float())
        total /= len(parts)
        scores[source] = total / total.mean()
    return scores


def _taken(layer: Any) -> dict[str, int]:
    """The parameters by which a layer takes filters, and where they have the channels."""
    if isinstance(layer, NORMS):
        return {"weight": 0} if layer.weight is not None else {}
    if isinstance(layer, nn.PReLU) or is_depthwise(layer):
        return {}
    return input_dimensions(layer)


def _squares(layer: Any, name: str, dimension: int) -> Tensor:
    value = getattr(layer, name).detach()
    if value.dim() == 1:
        return value.abs().pow(2)
    return value.transpose(0, dimension).flatten(1).abs().pow(2).sum(1)


def drawn(model: nn.Module, given: Given, *, items: int) -> Example:
    """Random inputs: normal ones for images; for examples what is given, numbers with noise."""
    generator = torch.Generator().manual_seed(0)

    def noisy(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        deviation = 1.0 if is_image(given) else float(value.float().std(correction=0))
        noise = torch.randn(value.shape, generator=generator).to(value)
        return value + noise * (deviation if 0 < deviation < torch.inf else 1.0)

    inputs = example(model, given, items=items)
    return Example(*torch.utils._pytree.tree_map(noisy, tuple(inputs)))


def _signature(given: Any) -> Any:
    leaves, spec = torch.utils._pytree.tree_flatten(given)
    return str(spec), [
        (tuple(leaf.shape), leaf.dtype, leaf.data_ptr()) if isinstance(leaf, Tensor) else leaf
        for leaf in leaves
    ]


def _mask(name: str, keep: Keep, filters: int) -> Tensor:
    """Which filters stay, (filters,) bool."""
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
    return torch.zeros(filters, dtype=torch.bool).index_fill(0, torch.tensor(sorted(kept)), True)
