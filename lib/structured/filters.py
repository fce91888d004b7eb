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

from lib.layers import Example, Given, clone, example, is_image
from lib.projections.checks import integers
from lib.structured.cut import cut, filter_dimensions, input_dimensions
from lib.structured.graph import NORMS, Structure
from lib.structured.macs import Costs, measured
from lib.structured.prunable import listed
from lib.structured.traced import trace
from lib.structured.verified import verified

#: The filters of a layer that stay: a bool each, or their indices.
Keep = Tensor | Sequence[bool] | Sequence[int]

#: What was found of a network, and for what.
_KNOWN: WeakKeyDictionary[nn.Module, tuple[Any, Costs]] = WeakKeyDictionary()


def costs(
    model: nn.Module, *, filters: bool = True, input_shape: Given, frozen: bool = False
) -> Costs:
    """What is asked once to count many choices: the layers, and if ``filters`` who follows whom.

    Parameters
    ----------
    filters : False: none is said to leave.
    input_shape : of an image, or example inputs, as of :func:`lib.layers.example`.
    frozen : layers that are not trained may change.

    Two forward passes; with ``filters`` those of :func:`structure` too. Raises ``ValueError`` as
    :func:`lib.accounting.macs`.
    """
    found, rest = measured(model, input_shape, frozen=frozen)
    dense = Costs(layers=found, rest=rest)
    if not filters:
        return dense
    state = [(n, tuple(v.shape), v.requires_grad) for n, v in model.named_parameters()]
    marked = [name for name, module in model.named_modules() if hasattr(module, "ignored")]
    what = (_signature(input_shape), frozen, state, marked, str(model), dense)
    known = _KNOWN.get(model)
    if known is None or known[0] != what:
        known = what, _structured(model, dense, input_shape, frozen)
        _KNOWN[model] = known
    return known[1]


def structure(model: nn.Module, *, input_shape: Given, frozen: bool = False) -> Structure:
    """Who takes the filters of whom, and which stay and why.

    Of the networks that ``lib.structured.prunable`` lists no other filters leave than it says; of
    others all that are found to. A forward pass for each layer, two for each binary digit of the
    largest number of filters, and of a copy in float64 with drawn weights some more, by which what
    is found is tried. Raises ``ValueError`` as :func:`lib.accounting.macs`.
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
    found = structure(model, input_shape=input_shape, frozen=True) if keep else Structure()
    for name in keep:
        if name not in found.sources:
            why = found.stays.get(name, "")
            if name in found.joined:
                why = f"they leave with those of {found.joined[name]!r}"
            raise ValueError(
                f"filters of {name!r} cannot be removed{': ' * bool(why)}{why}; choose layers of "
                f"{', '.join(found.sources) or 'another network'}"
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
        parts = []
        for name in found.members(source):
            layer = model.get_submodule(name)
            for parameter, dimension in filter_dimensions(layer).items():
                if parameter.startswith("weight"):
                    squares = _squares(layer, parameter, dimension)
                    parts.append(squares.view(-1, count).sum(0))
        for name, by in found.channels.items():
            if source in by:
                parts += _of_channels(model.get_submodule(name), by[source], count)
        total = torch.zeros(count, dtype=torch.float32, device=parts[0].device)
        for part in parts:
            total += part.float()
        total /= len(parts)
        scores[source] = total / total.mean()
    return scores


def _of_channels(layer: Any, numbers: Tensor, count: int) -> list[Tensor]:
    """What of a layer that takes filters each of them has."""
    if isinstance(layer, NORMS):
        names = {"weight": 0} if layer.weight is not None else {}
    elif isinstance(layer, nn.PReLU) or getattr(layer, "groups", 1) > 1:
        names = {}
    else:
        names = input_dimensions(layer)
    found = []
    for name, dimension in names.items():
        squares = _squares(layer, name, dimension)
        taken = (numbers >= 0).nonzero().flatten().to(squares.device)
        part = torch.zeros(count, dtype=torch.float32, device=squares.device)
        which = numbers.to(squares.device)[taken]
        found.append(part.scatter_add_(0, which, squares[taken].float()))
    return found


def _squares(layer: Any, name: str, dimension: int) -> Tensor:
    value = getattr(layer, name).detach()
    if value.dim() == 1:
        return value.abs().pow(2)
    return value.transpose(0, dimension).flatten(1).abs().pow(2).sum(1)


def _structured(model: nn.Module, dense: Costs, given: Given, frozen: bool) -> Costs:
    inputs = drawn(model, given)
    only = listed(model)
    found = trace(model, inputs, only=only, frozen=frozen)
    return verified(model, dense, found, inputs)


def drawn(model: nn.Module, given: Given, items: int = 2) -> Example:
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
