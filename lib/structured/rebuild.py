"""Builds a network of the shapes that a state has: what a run folder's weights are loaded into."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lib.layers import weight_of
from lib.structured.factors import blank, empty_factors, factor
from lib.structured.filters import prunable, remove_filters
from lib.structured.graph import is_depthwise


def rebuild(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """``model``, with filters removed and layers in factors as those whose weights ``state`` holds.

    Shapes alone are taken: ``load_state_dict`` then loads, and refuses what does not fit. Layers
    that change are new and hold no values yet; in place, and ``model`` is returned.

    Raises ``ValueError`` that names a layer which the state lacks.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            new = _layer(name, module, state)
        elif isinstance(module, _BatchNorm):
            new = _norm(module, state[f"{name}.running_mean"].numel())
        else:
            continue
        if new is not module:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, new)
    return model


def become(model: nn.Module, other: nn.Module) -> None:
    """Gives ``model`` the layers of ``other``: it stays the object that others hold."""
    for name, child in other.named_children():
        setattr(model, name, child)


def shrink_like(
    model: nn.Module, state: Mapping[str, Tensor], *, input_shape: tuple[int, ...]
) -> nn.Module:
    """A copy of ``model``, weights and all, in the shapes of ``state``; as it is if they are its.

    Of each layer the first filters stay, and factors are the best for what is then its weight,
    which suits a network that was just drawn: Khodak, Tenenholtz, Mackey, Fusi, "Initialization and
    Regularization of Factorized Neural Layers" (ICLR 2021).
    """
    found = ranks(model, state)
    outputs = {
        name: len(state[f"{name}.1.weight" if name in found else f"{name}.weight"])
        for name in (prunable(model) if _differs(model, state) else ())
    }
    keep = {
        name: range(count) for name, count in outputs.items() if count < len(weight_of(model, name))
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


def _layer(name: str, layer: nn.Conv2d | nn.Linear, state: Mapping[str, Tensor]) -> nn.Module:
    if f"{name}.weight" in state:
        shape = state[f"{name}.weight"].shape
        return layer if shape == layer.weight.shape else _resized(layer, shape)
    try:
        first, second = (state[f"{name}.{i}.weight"].shape for i in range(2))
    except KeyError:
        raise ValueError(f"the weights hold no layer {name!r}") from None
    # scheme 2 splits the kernel between the two
    scheme = 1 if first[2:] == layer.weight.shape[2:] else 2
    return empty_factors(layer, (first[1], first[0], second[0]), scheme)


def _resized(layer: nn.Conv2d | nn.Linear, shape: tuple[int, ...]) -> nn.Module:
    options = {}
    if isinstance(layer, nn.Conv2d):
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        options = {name: getattr(layer, name) for name in names}
        if is_depthwise(layer):
            options["groups"] = shape[0]
    inputs = shape[1] * options.get("groups", 1)
    return blank(layer, inputs, shape[0], bias=layer.bias is not None, **options)


def _norm(norm: Any, features: int) -> _BatchNorm:
    if features == norm.num_features:
        return norm
    place = {"device": norm.running_mean.device, "dtype": norm.running_mean.dtype}
    new = type(norm)(features, norm.eps, norm.momentum, norm.affine, **place)
    return new.train(norm.training)
