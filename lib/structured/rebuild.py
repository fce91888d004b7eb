"""Builds a network of the shapes that a state has: what a run folder's weights are loaded into."""

from collections.abc import Mapping
from typing import Any

from torch import Size, Tensor, nn

from lib.layers import Given, weight_of
from lib.structured.factors import empty_factors, factor, put
from lib.structured.filters import prunable, remove_filters
from lib.structured.graph import CONVOLUTIONS, LAYERS, NORMS, TRANSPOSED, filters_of, is_depthwise

#: What may have lost channels beside layers.
FOLLOWING = (NORMS, nn.LayerNorm, nn.GroupNorm, nn.PReLU)


def rebuild(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """``model``, with filters removed and layers in factors as those whose weights ``state`` holds.

    Shapes alone are taken: ``load_state_dict`` then loads, and refuses what does not fit. Weights
    that change are new and hold no values yet; in place, and ``model`` is returned.

    Raises ``ValueError`` that names a layer which the state lacks.
    """
    for name, module in list(model.named_modules()):
        prefix = f"{name}." if name else ""
        if isinstance(module, (*LAYERS, *FOLLOWING)):
            own = {**module._parameters, **module._buffers}
            kept = [part for part in own if own[part] is not None and f"{prefix}{part}" in state]
            if isinstance(module, (nn.Conv2d, nn.Linear)) and f"{prefix}0.weight" in state:
                _factors(model, name, module, state)
            elif "weight" in own and own["weight"] is not None and "weight" not in kept:
                raise ValueError(f"the weights hold no layer {name!r}")
            else:
                _resize(module, {part: state[f"{prefix}{part}"].shape for part in kept})
    return model


def _factors(model: nn.Module, name: str, layer: Any, state: Mapping[str, Tensor]) -> None:
    """Puts two layers in the place of one."""
    try:
        first, second = (state[f"{name}.{i}.weight"].shape for i in range(2))
    except KeyError:
        raise ValueError(f"the weights hold no layer {name!r}") from None
    # scheme 2 splits the kernel between the two
    scheme = 1 if first[2:] == layer.weight.shape[2:] else 2
    put(model, name, empty_factors(layer, (first[1], first[0], second[0]), scheme))


def _resize(module: Any, shapes: Mapping[str, Size]) -> None:
    """Gives a layer parameters and statistics of these shapes, and the sizes that go with them."""
    changed = {
        part: shape for part, shape in shapes.items() if getattr(module, part).shape != shape
    }
    depthwise, layer = is_depthwise(module), module
    for part, shape in changed.items():
        value = getattr(module, part)
        new = value.new_empty(shape)
        if isinstance(value, nn.Parameter):
            new = nn.Parameter(new, requires_grad=value.requires_grad)
        setattr(module, part, new)
    if not changed:
        return
    shape = next(iter(changed.values()))
    if isinstance(module, nn.RNNBase):
        layer.hidden_size = layer.weight_hh_l0.shape[1]
        layer.input_size = layer.weight_ih_l0.shape[1]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, (*CONVOLUTIONS, *TRANSPOSED)):
        first, second = module.weight.shape[:2]
        module.groups = first if depthwise else module.groups
        second *= module.groups
        transposed = isinstance(module, TRANSPOSED)
        module.out_channels, module.in_channels = (second, first) if transposed else (first, second)
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(shape)
    else:
        sizes = {nn.GroupNorm: "num_channels", nn.PReLU: "num_parameters"}
        setattr(module, sizes.get(type(module), "num_features"), shape[0])


def become(model: nn.Module, other: nn.Module) -> None:
    """Gives ``model`` the layers of ``other``: it stays the object that others hold."""
    for name, child in other.named_children():
        setattr(model, name, child)


def shrink_like(model: nn.Module, state: Mapping[str, Tensor], *, input_shape: Given) -> nn.Module:
    """A copy of ``model``, weights and all, in the shapes of ``state``; as it is if they are its.

    Of each layer the first filters stay, and factors are the best for what is then its weight,
    which suits a network that was just drawn: Khodak, Tenenholtz, Mackey, Fusi, "Initialization and
    Regularization of Factorized Neural Layers" (ICLR 2021).
    """
    found = ranks(model, state)
    leave = prunable(model, input_shape) if _differs(model, state) else []
    outputs = {
        name: _filters(model.get_submodule(name), name, name in found, state) for name in leave
    }
    keep = {
        name: range(count)
        for name, count in outputs.items()
        if count < filters_of(model.get_submodule(name))
    }
    if keep:
        model = remove_filters(model, keep, input_shape=input_shape)
    split = [
        name
        for name in found
        if state[f"{name}.0.weight"].shape[2:] != weight_of(model, name).shape[2:]
    ]
    return factor(model, found, scheme=2 if split else 1, input_shape=input_shape)


def _differs(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    own = {name: value.shape for name, value in model.state_dict().items()}
    return own != {name: value.shape for name, value in state.items()}


def ranks(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Layer of ``model`` → its rank, of those that are in factors in ``state``."""
    return {
        name: state[f"{name}.0.weight"].shape[0]
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and f"{name}.0.weight" in state
    }


def _filters(layer: Any, name: str, factored: bool, state: Mapping[str, Tensor]) -> int:
    """How many filters the layer of this name has in ``state``."""
    if isinstance(layer, nn.RNNBase):
        return state[f"{name}.weight_hh_l0"].shape[1]
    weight = state[f"{name}.1.weight" if factored else f"{name}.weight"]
    return weight.shape[1] if isinstance(layer, TRANSPOSED) else len(weight)
