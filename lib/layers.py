"""Which layers of a network are compressed, and how a network is copied and set to train."""

import copy
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

#: What is compressed.
LAYERS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.Linear, nn.Embedding),
)


def compressible(model: nn.Module) -> dict[str, Tensor]:
    """Layer name → weight of every convolution, linear layer and embedding, in their order.

    A weight that several layers share is listed once, under the first; one that is computed from
    other parameters (by weight normalisation, say) is not listed, nor one of a layer that
    :func:`ignore` has marked. Biases and normalisation are left out: they stay in 32 bits, as in
    the papers.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LAYERS) and "weight" in dict(module.named_parameters(recurse=False))
    }
    seen = {id(module.weight) for module in layers.values() if getattr(module, "ignored", False)}
    found: dict[str, Tensor] = {}
    for name, module in layers.items():
        if id(module.weight) not in seen:
            found[name] = module.weight
        seen.add(id(module.weight))
    return found


def ignore(model: nn.Module, layers: Iterable[str]) -> None:
    """Marks layers of ``model``, by their names, as not to be compressed.

    Raises ``ValueError`` for a name that is none of :func:`compressible`'s.
    """
    known = compressible(model)
    for name in layers:
        if name not in known:
            raise ValueError(f"no layer {name!r} to ignore: choose of {', '.join(known)}")
        layer: Any = model.get_submodule(name)
        layer.ignored = True


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The weight of the layer of this name."""
    layer: Any = model.get_submodule(name)
    return layer.weight


def clone(model: nn.Module) -> Any:
    """A deep copy, also of a module that keeps what it computed.

    ``copy.deepcopy`` refuses tensors that a gradient flows through, such as a feature that
    ``forward`` keeps for later, or a weight that a hook computes of others (the old
    ``weight_norm``, a pruning mask). The copy has them detached.
    """
    memo: dict[int, Any] = {}
    seen: set[int] = set()

    def detach(value: object) -> None:
        if isinstance(value, Tensor):
            if not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            for one in value.values() if isinstance(value, dict) else value:
                detach(one)

    for module in model.modules():
        detach(vars(module))
    return copy.deepcopy(model, memo)


def hold(model: nn.Module, modules: Iterable[str]) -> None:
    """Marks modules of ``model``, by their names, as staying in evaluation mode in training."""
    for name in modules:
        held: Any = model.get_submodule(name)
        held.held = True


def train(model: nn.Module) -> None:
    """Training mode, but for the modules that :func:`hold` has marked."""
    model.train()
    for module in model.modules():
        if getattr(module, "held", False):
            module.eval()


def unmark(model: nn.Module) -> None:
    """Takes away what :func:`ignore` and :func:`hold` have marked."""
    for module in model.modules():
        for mark in ("ignored", "held"):
            vars(module).pop(mark, None)
