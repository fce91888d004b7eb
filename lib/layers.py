"""Which layers of a network are compressed, what it reads, how it is copied and set to train."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

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


#: What a network reads: (channels, height, width) of an image, or example inputs: a tuple of what
#: it is called with, tensors or what holds tensors, or a mapping of what it is called with by name.
Given: TypeAlias = tuple[Any, ...] | Mapping[str, Any]


class Example(NamedTuple):
    """What a network is called with."""

    positional: tuple[Any, ...]
    named: dict[str, Any]

    def call(self, model: nn.Module) -> Any:
        """What ``model`` returns for it."""
        return model(*self.positional, **self.named)

    @property
    def items(self) -> int:
        """How many there are in the batch: the length of the first tensor."""
        first = next(t for t in tree_leaves(tuple(self)) if isinstance(t, Tensor))
        return len(first) if first.dim() else 1


def fewest(model: nn.Module) -> int:
    """How many items a batch must have: 2 where BatchNorm measures each batch, else 1."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return 2 if any(norm.running_mean is None for norm in norms) else 1


def is_image(given: Any) -> bool:
    """Whether it is (channels, height, width), or another shape of one item."""
    return isinstance(given, tuple) and given != () and all(type(side) is int for side in given)


def as_given(given: Any) -> Given:
    """A shape as a tuple, whatever it came as; example inputs as they are."""
    return tuple(given) if isinstance(given, list | torch.Size) else given


def example(model: nn.Module, given: Given, *, items: int | None = None) -> Example:
    """What ``model`` can be called with: on its device, and in its dtype where it has but one.

    Parameters
    ----------
    given : (channels, height, width) of an image, which becomes zeros; or example inputs with a
        batch's dimension first: a tuple of tensors, or a mapping of them by the names of
        ``model``'s arguments.
    items : the first so many of a batch (tensors of another length than the first one's stay
        whole); None: all that are given, one image.

    Raises ``ValueError`` for what is neither, and for inputs without a tensor or without an item.
    """
    state = [*model.parameters(), *model.buffers()]
    floating = [value for value in state if value.is_floating_point()]
    dtypes = {value.dtype for value in floating}
    dtype = floating[0].dtype if floating else torch.get_default_dtype()
    device = state[0].device if state else torch.device("cpu")
    given = as_given(given)
    if is_image(given):
        images = torch.zeros(items or 1, *given, dtype=dtype, device=device)
        return Example((images,), {})
    if not isinstance(given, (tuple, Mapping)):
        raise ValueError(
            f"the input is a {type(given).__name__}: give (channels, height, width) of an image, "
            "or a tuple of example inputs"
        )
    tensors = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
    if not tensors or not tensors[0].dim() or not len(tensors[0]):
        raise ValueError("the example inputs hold no tensor of one item or more: give a batch")
    count = len(tensors[0])

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if items is not None and value.dim() and len(value) == count:
            value = value[:items]
        cast = value.is_floating_point() and len(dtypes) == 1
        return value.to(device, dtype if cast else value.dtype)

    found = tree_map(placed, dict(given) if isinstance(given, Mapping) else given)
    return Example((), found) if isinstance(given, Mapping) else Example(found, {})


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
