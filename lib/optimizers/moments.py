"""What reaches a layer: what its rounding is weighed by.

With a layer's outputs y = W·x an error ΔW of its weights changes them by

    E‖Δy‖² = tr(ΔW·C·ΔWᵀ),   C = E[x·xᵀ],

x being what one output reads of the inputs.
"""

from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lib.layers import compressible
from lib.training.batches import computed, each_tensor

#: Of a layer of more columns only the diagonal of C is measured.
MOST_COLUMNS = 2048

#: Values of x looked at in a batch, at most.
SEEN = 2**21

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """(groups, rows, columns) of a layer's weight: a row for each output channel of a group."""
    if isinstance(layer, CONVOLUTIONS):
        return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)
    if isinstance(layer, TRANSPOSED):
        parts = weight.reshape(layer.groups, -1, weight.shape[1], weight[0, 0].numel())
        return parts.transpose(1, 2).flatten(2)
    return weight.reshape(1, len(weight), -1)


def as_weight(layer: nn.Module, matrix: Tensor, like: Tensor) -> Tensor:
    """What :func:`as_matrix` was given."""
    if isinstance(layer, TRANSPOSED):
        groups, rows, _ = matrix.shape
        parts = matrix.reshape(groups, rows, -1, like[0, 0].numel())
        return parts.transpose(1, 2).reshape(like.shape)
    return matrix.reshape(like.shape)


@torch.no_grad()
def second_moments(
    model: nn.Module, batches: Iterable[Any], *, network: nn.Module | None = None
) -> dict[str, Tensor]:
    """C of each compressible layer that was called, by its name: (groups, columns, columns).

    Where a layer has more than ``MOST_COLUMNS`` it is C's diagonal, (groups, columns). An embedding
    has none. ``network`` is what is called, ``model`` itself unless it is given: one that holds its
    layers. Cost: a pass forward over the batches.
    """
    network = model if network is None else network
    sums: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def add(name: str, layer: Any, args: tuple, named: dict) -> None:
        given = args[0] if args else named.get("input")
        if isinstance(given, Tensor) and given.numel():
            second = _second(layer, given.float())
            sums[name] = sums[name] + second if name in sums else second
            calls[name] += 1

    hooks = [
        layer.register_forward_pre_hook(partial(add, name), with_kwargs=True)
        for name, layer in ((name, model.get_submodule(name)) for name in compressible(model))
        if not isinstance(layer, nn.Embedding)
    ]
    try:
        for inputs in batches:
            computed(network, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / calls[name] for name, total in sums.items()}


def error(change: Tensor, second: Tensor | None) -> Tensor:
    """tr(ΔW·C·ΔWᵀ) of changes (groups, rows, columns); where C is not known it is the identity."""
    if second is None:
        return change.square().sum()
    if second.dim() == 2:
        return (change.square() * second[:, None]).sum()
    return ((change @ second) * change).sum()


def outputs(value: Any) -> list[Tensor]:
    """The floating-point tensors among what a network returns."""
    found: list[Tensor] = []
    each_tensor(value, lambda x: found.append(x) if x.is_floating_point() else None)
    return found


def _second(layer: Any, x: Tensor) -> Tensor:
    """C of what a layer reads, of each group; its diagonal where there are many columns."""
    columns = as_matrix(layer, layer.weight).shape[2]
    if isinstance(layer, TRANSPOSED):
        return _second_transposed(layer, x, columns)
    read = _read(layer, x)  # (groups, n, columns)
    if columns > MOST_COLUMNS:
        return read.square().mean(1)
    return read.transpose(1, 2) @ read / read.shape[1]


def _second_transposed(layer: Any, x: Tensor, columns: int) -> Tensor:
    """Of a transposed convolution, whose places in the kernel are taken for independent."""
    x = x.transpose(0, -1 - len(layer.kernel_size)).flatten(1)  # (channels, n)
    x = x.reshape(layer.groups, -1, x.shape[1])
    places = columns // x.shape[1]
    if columns > MOST_COLUMNS:
        return x.square().mean(2).repeat_interleave(places, 1)
    second = x @ x.transpose(1, 2) / x.shape[2]
    return torch.stack([torch.kron(one, torch.eye(places).to(one)) for one in second])


def _read(layer: Any, x: Tensor) -> Tensor:
    """(groups, n, columns): what each of some outputs of a layer reads."""
    if not isinstance(layer, CONVOLUTIONS):
        return x.reshape(1, -1, x.shape[-1])[:, : max(1, SEEN // x.shape[-1])]
    dims = len(layer.kernel_size)
    x = x if x.dim() == dims + 2 else x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for d in range(dims):
        step = layer.dilation[d]
        x = x.unfold(2 + d, step * (layer.kernel_size[d] - 1) + 1, layer.stride[d])[..., ::step]
    each = x[0].numel()  # of an image
    x = x[: max(1, SEEN // each)].movedim(1, 1 + dims)  # (images, …, channels, kernel …)
    return x.flatten(0, dims).flatten(2).unflatten(1, (layer.groups, -1)).flatten(2).transpose(0, 1)
