"""MACs, layer by layer, of a network and of the smaller one before it is built; and seconds."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from math import prod
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from lib.accounting import counted, undisturbed
from lib.layers import Given, clone, example, fewest, is_image
from lib.structured.graph import (
    LAYERS,
    TRANSPOSED,
    Structure,
    filters_of,
    inputs_of,
    whole,
)

#: Under which name the MACs stand that no removal changes.
REST = "everything else"


@dataclass(frozen=True)
class Layer:
    """A layer as far as MACs go, of all of its calls; a linear one has 1 × 1 kernels.

    Of convolutions in one or three dimensions and of transposed ones the kernel and the places are
    numbers of one row. A recurrent layer has a place for each step, gate and direction.
    """

    name: str
    inputs: Any  # c_in of one group, an int or a tensor
    filters: Any  # c_out
    kernel: tuple[int, ...]
    places: tuple[int, ...]  # height and width of what it returns
    width: int  # of what it reads
    groups: int
    whole: bool = False  # whether it may not be two
    units: int = 0  # of a recurrent layer, how often a unit is multiplied with every unit

    def macs(self, *, rank: int | Tensor | None = None, scheme: int = 1) -> Any:
        """MACs of one image, in factors of a rank or (None) whole.

            whole       A·k²·c_in·c_out       c_in of one group: 1 of a depthwise convolution
            scheme 1    A·r·(k²·c_in + c_out)
            scheme 2    A·r·k·(s·c_in + c_out)
            recurrent   A·c_in·c_out + U·c_out²

        A is the area of what the layer returns, s its stride. Exact: equal to what
        ``accounting.macs`` counts on the built network; in scheme 2 then with the width that was
        read over the width returned for s, which is the stride where padding keeps the size.
        Numbers may also be tensors, of any real dtype, to be differentiated.

        Eo, Kang, Rhee, eq. 14, which is written for scheme 1. Raises ``ValueError`` for another
        scheme.
        """
        check_scheme(scheme)
        k1, k2 = self.kernel
        height, width = self.places
        if rank is None:
            found = height * width * k1 * k2 * self.inputs * self.filters
            return found + self.units * self.filters * self.filters if self.units else found
        if scheme == 1:
            return height * width * rank * (k1 * k2 * self.inputs + self.filters)
        # the k × 1 convolution strides over rows alone: it returns every column it reads
        return height * rank * (self.width * k1 * self.inputs + width * k2 * self.filters)

    def factors(self) -> bool:
        """Whether it may be two: a linear layer or a convolution in two dimensions that may change.

        A depthwise layer may not, nor what is left of it in one channel, nor may other grouped
        convolutions.
        """
        return not self.whole and self.groups == 1 and max(self.inputs, self.filters) > 1

    def most(self, *, scheme: int = 1) -> int:
        """The largest rank its matrix can have."""
        check_scheme(scheme)
        k1, k2 = self.kernel
        if scheme == 1:
            return min(self.filters, self.inputs * k1 * k2)
        return min(self.filters * k2, self.inputs * k1)


@dataclass(frozen=True, kw_only=True)
class Costs(Structure):
    """A network's layers, and who takes whose filters: what :func:`lib.structured.costs` returns.

    ``rest`` are MACs that no choice changes: attention, and layers that may not be told apart.
    """

    layers: dict[str, Layer]
    rest: int = 0

    def left(self, name: str, filters: Mapping[str, int | Tensor]) -> Layer:
        """A layer with so many ``filters`` left, its own and those that it reads."""
        layer = self.layers[name]
        # a depthwise layer has as many channels as the layer before has filters
        owner = self.depthwise.get(name, self.joined.get(name, name))
        own, inputs = filters.get(owner, layer.filters), layer.inputs
        feeds = self.feeds.get(name, ())
        if any(feed.source in filters for feed in feeds):
            full = [self.sources[feed.source] * feed.per_filter for feed in feeds]
            constant = layer.inputs - sum(full)
            parts = [
                filters.get(feed.source, self.sources[feed.source]) * feed.per_filter
                for feed in feeds
            ]
            # without a sum where there is nothing to add: of tensors it would be a kernel
            inputs = reduce(add, parts + [constant] * (constant > 0))
        return replace(layer, inputs=inputs, filters=own)

    def built(
        self, filters: Mapping[str, int], ranks: Mapping[str, int | None], *, scheme: int = 1
    ) -> dict[str, int]:
        """Layer name → its MACs, with so many filters left, in factors where that is cheaper.

        Exact: their sum is ``accounting.macs`` of the network that is built so. ``ranks`` are those
        of the layers with these filters left; what is not named, or None, stays whole. What does
        not change at all comes last, if there is any, under ``REST``.
        """
        found = {}
        for name in self.layers:
            left, rank = self.left(name, filters), ranks.get(name)
            found[name] = left.macs()
            if rank is not None and left.factors():
                found[name] = min(found[name], left.macs(rank=rank, scheme=scheme))
        return found | ({REST: self.rest} if self.rest else {})


def layers(model: nn.Module, *, input_shape: Given, frozen: bool = False) -> dict[str, Layer]:
    """Layer name → its ``Layer``, of every one that a forward pass calls, in the network's order.

    Convolutions, transposed ones, linear and recurrent layers; of those whose MACs are others than
    their shapes say, and of those with a weight that is computed, there is none. ``input_shape`` as
    of :func:`lib.layers.example`; ``frozen``: what is not trained may become two. Two forward
    passes of one item. Raises ``ValueError`` as :func:`lib.accounting.macs`.
    """
    return measured(model, input_shape, frozen=frozen)[0]


def measured(
    model: nn.Module, given: Given, *, frozen: bool = False
) -> tuple[dict[str, Layer], int]:
    """:func:`layers`, and the MACs of the rest: together what ``accounting.macs`` counts."""
    fixed = whole(model, frozen=frozen)
    modules: dict[str, Any] = dict(model.named_modules())
    names = [name for name, module in modules.items() if isinstance(module, LAYERS)]
    names = [name for name in names if "computed" not in fixed.get(name, "")]
    calls: dict[str, list[tuple[Any, Any]]] = {}

    def note(name: str, _: nn.Module, read: tuple, named: dict, returned: Any) -> None:
        calls.setdefault(name, []).append((next(iter((*read, *named.values()))), returned))

    items = fewest(model)
    inputs = example(model, given, items=items)
    with undisturbed(model):
        for name in names:
            modules[name].register_forward_hook(partial(note, name), with_kwargs=True)
        inputs.call(model)
    spent = counted(model, given, names)
    found = {}
    for name in names:
        module = modules[name]
        # another one of its own class cannot be made, nor are its hooks those of two layers
        own = type(module) not in (nn.Conv2d, nn.Linear) or name == "" or _hooked(module)
        layer = _layer(name, module, calls.get(name, []), items, fixed=own or name in fixed)
        if layer is not None and layer.macs() == spent[name]:
            found[name] = layer
    return found, sum(spent.values()) - sum(layer.macs() for layer in found.values())


def latency(model: nn.Module, input_shape: Given, batch: int = 1, *, seconds: float = 1.0) -> float:
    """Median seconds of a forward pass of ``batch`` images, in evaluation mode, after a warm-up.

    On the model's device, which is waited for, and with as many threads as PyTorch is set to.
    ``seconds`` is how long it measures at least. Random images; example inputs are taken as they
    are, all of them. Raises ``ValueError`` for no images or no time.
    """
    # it warns where there is a CUDA toolkit and no GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer  # here, because it imports setuptools

    if batch < 1 or not seconds > 0:
        raise ValueError(f"batch is {batch} and seconds {seconds}; both must be positive")
    copied = clone(model).eval()
    inputs = example(copied, input_shape, items=batch)
    if is_image(input_shape):
        inputs.positional[0].copy_(
            torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(0))
        )
    timer = Timer(
        "inputs.call(model)",
        globals={"model": copied, "inputs": inputs},
        num_threads=torch.get_num_threads(),  # it would take 1
    )
    with torch.inference_mode():
        timer.timeit(3)  # the first passes choose kernels and fill caches
        return timer.blocked_autorange(min_run_time=seconds).median


def check_scheme(scheme: int) -> None:
    if scheme not in (1, 2):
        raise ValueError(f"scheme is {scheme!r}; choose 1 (k × k, 1 × 1) or 2 (k × 1, 1 × k)")


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _layer(
    name: str, layer: Any, calls: list[tuple[Any, Any]], items: int, *, fixed: bool
) -> Layer | None:
    """Of all calls with so many items; None where it is not called, or projects its units."""
    if not calls or getattr(layer, "proj_size", 0) > 0:
        return None
    inputs, filters = inputs_of(layer), filters_of(layer)
    if isinstance(layer, nn.Linear):
        count = sum(read.numel() // inputs for read, _ in calls) // items
        return Layer(name, inputs, filters, (1, 1), (1, count), count, 1, fixed)
    if isinstance(layer, nn.RNNBase):
        weight: Any = layer.weight_hh_l0
        gates = len(weight) // filters * (1 + layer.bidirectional)
        count = gates * sum(_steps(read) for read, _ in calls) // items
        # each later layer reads the units of both directions
        units = count * (1 + (layer.num_layers - 1) * (2 + layer.bidirectional))
        return Layer(name, inputs, filters, (1, 1), (1, count), count, 1, True, units)
    inputs //= layer.groups
    if not isinstance(layer, nn.Conv2d):
        index = 0 if isinstance(layer, TRANSPOSED) else 1
        spatial = len(layer.kernel_size)
        if isinstance(layer, TRANSPOSED):
            filters //= layer.groups
            inputs *= layer.groups
        count = sum(prod(call[index].shape) // call[index].shape[-spatial - 1] for call in calls)
        count //= items
        kernel = (1, prod(layer.kernel_size))
        return Layer(name, inputs, filters, kernel, (1, count), count, layer.groups, True)
    # rows of all images of a call
    sizes = [
        (prod(back.shape[:-3]) * back.shape[-2] // items, back.shape[-1], read.shape[-1])
        for read, back in calls
    ]
    if len(sizes) == 1:
        ((height, width, reads),) = sizes
    else:  # as if of one row
        height, width = 1, sum(h * w for h, w, _ in sizes)
        reads = sum(h * r for h, _, r in sizes)
    return Layer(
        name, inputs, filters, layer.kernel_size, (height, width), reads, layer.groups, fixed
    )


def _steps(read: Any) -> int:
    read = getattr(read, "data", read)
    return read.numel() // read.shape[-1]
