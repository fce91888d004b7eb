"""Which layers of a network are compressed."""

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
