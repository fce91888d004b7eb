"""What the smaller network costs: MACs, known before it is built, and seconds, measured after."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib.layers import compressible
from lib.projections.checks import integers
from lib.structured.filters import Feed, check_names, depthwise, feeds


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, as far as MACs go; a linear layer has 1 × 1 kernels."""

    name: str
    inputs: int  # c_in of one group
    filters: int  # c_out
    kernel: tuple[int, int]
    places: tuple[int, int]  # height and width of what it returns
    width: int  # of what it reads
    groups: int

    def macs(
        self,
        *,
        inputs: int | Tensor | None = None,
        filters: int | Tensor | None = None,
        rank: int | Tensor | None = None,
        scheme: int = 1,
    ) -> int | Tensor:
        """MACs of one image with so many inputs and filters left (None: all), in factors of a rank.

            whole       A·k²·c_in·c_out       c_in of one group: 1 of a depthwise convolution
            scheme 1    A·r·(k²·c_in + c_out)
            scheme 2    A·r·k·(s·c_in + c_out)

        A is the area of what the layer returns, s its stride. Exact: equal to what
        ``budget.macs`` counts on the built network; in scheme 2 then with the width that was read
        over the width returned for s, which is the stride where padding keeps the size. Numbers may
        also be tensors, of any real dtype, to be differentiated.

        Eo, Kang, Rhee, eq. 14, which is written for scheme 1. Raises ``ValueError`` for another
        scheme.
        """
        check_scheme(scheme)
        c_in = self.inputs if inputs is None else inputs
        c_out = self.filters if filters is None else filters
        k1, k2 = self.kernel
        height, width = self.places
        if rank is None:
            return height * width * k1 * k2 * c_in * c_out
        if scheme == 1:
            return height * width * rank * (k1 * k2 * c_in + c_out)
        # the k × 1 convolution strides over rows alone: it returns every column it reads
        return height * rank * (self.width * k1 * c_in + width * k2 * c_out)

    def factors(self, *, inputs: int | None = None, filters: int | None = None) -> bool:
        """Whether it may be two. A depthwise layer may not, nor what is left of it in one channel.

        Nor may other grouped convolutions.
        """
        c_in = self.inputs if inputs is None else inputs
        c_out = self.filters if filters is None else filters
        return self.groups == 1 and max(c_in, c_out) > 1

    def most(
        self, *, inputs: int | None = None, filters: int | None = None, scheme: int = 1
    ) -> int:
        """The largest rank its matrix can have."""
        check_scheme(scheme)
        c_in = self.inputs if inputs is None else inputs
        c_out = self.filters if filters is None else filters
        k1, k2 = self.kernel
        return min(c_out, c_in * k1 * k2) if scheme == 1 else min(c_out * k2, c_in * k1)


@dataclass(frozen=True)
class Costs:
    """A network's layers, and which filters are whose inputs: what :func:`costs` returns."""

    layers: Mapping[str, Layer]
    feeds: Mapping[str, Feed]
    depthwise: Mapping[str, str]

    def left(self, name: str, filters: Mapping[str, int | Tensor]) -> dict[str, int | Tensor]:
        """A layer's inputs and filters for :meth:`Layer.macs`, with so many ``filters`` left."""
        # a depthwise layer has as many channels as the layer before has filters
        own = self.depthwise.get(name, name)
        found = {"filters": filters[own]} if own in filters else {}
        source, per_filter = self.feeds.get(name, (None, 1))
        if source in filters:
            found["inputs"] = filters[source] * per_filter
        return found

    def built(
        self,
        filters: Mapping[str, int],
        ranks: Mapping[str, int | None],
        *,
        scheme: int = 1,
    ) -> dict[str, int]:
        """Layer name → its MACs, with so many filters left, in factors where that is cheaper."""
        found = {}
        for name, layer in self.layers.items():
            left = self.left(name, filters)
            found[name] = layer.macs(**left)
            if ranks.get(name) is not None and layer.factors(**left):
                factors = layer.macs(rank=ranks[name], scheme=scheme, **left)
                found[name] = min(found[name], factors)
        return found


def costs(model: nn.Module, *, filters: bool = True, input_shape: tuple[int, ...]) -> Costs:
    """What is asked once to count many choices: the layers, and if ``filters`` who follows whom.

    Raises as :func:`layers` and :func:`feeds`; without ``filters`` none is said to leave, and the
    extra is not needed.
    """
    found = layers(model, input_shape=input_shape)
    if not filters:
        return Costs(found, {}, {})
    place = {"input_shape": input_shape}
    return Costs(found, feeds(model, **place), depthwise(model, **place))


def layers(model: nn.Module, *, input_shape: tuple[int, ...]) -> dict[str, Layer]:
    """Layer name → its ``Layer``, of every convolution and linear layer that a forward pass calls.

    ``input_shape`` is (channels, height, width) of an image. In the network's order. One forward
    pass, of a copy. Raises ``ValueError`` that names the layer: one that is called twice, and
    convolutions in one or three dimensions.
    """
    copied = copy.deepcopy(model).eval()
    found: dict[str, Layer] = {}

    def watch(name: str, layer: nn.Module) -> None:
        def note(_: nn.Module, read: tuple[Tensor], returned: Tensor) -> None:
            if name in found:
                raise ValueError(f"{name!r} is called twice; its MACs are not known here")
            found[name] = _layer(name, layer, read[0], returned)

        layer.register_forward_hook(note)

    order = list(compressible(copied))
    for name in order:
        watch(name, copied.get_submodule(name))
    like = next(copied.parameters())
    with torch.no_grad():
        copied(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    return {name: found[name] for name in order if name in found}


def predicted_macs(
    model: nn.Module,
    *,
    filters: Mapping[str, int] | None = None,
    ranks: Mapping[str, int | None] | None = None,
    scheme: int = 1,
    input_shape: tuple[int, ...],
) -> dict[str, int]:
    """Layer name → MACs of one image in the network that ``shrink`` would build.

    Exact: their sum is ``budget.macs`` of the built network. A layer that costs as much in factors
    as whole, or more, stays whole, and so does one of a single channel in and out.

    Parameters
    ----------
    filters : layer name → how many filters stay. Layers of ``prunable``; those left out keep all.
    ranks : layer name → its rank; those left out, and None, stay whole.
    input_shape : (channels, height, width) of an image.

    Three forward passes, one without ``filters``; the extra ``surgery`` is needed with them alone.
    To ask about many choices, call ``costs`` once and ``Costs.built`` for each.

    Raises ``ValueError`` that names the layer: unknown, not prunable, a number out of range.
    """
    filters, ranks = dict(filters or {}), dict(ranks or {})
    check_scheme(scheme)
    if filters:
        check_names(model, filters)
    found = costs(model, filters=bool(filters), input_shape=input_shape)
    for name, number in filters.items():
        (number,) = integers([number], f"the filters of {name!r}")
        if not 1 <= number <= found.layers[name].filters:
            raise ValueError(
                f"{name!r} keeps {number} filters, which is not in 1..{found.layers[name].filters}"
            )
    for name, rank in ranks.items():
        layer = named(found.layers, name)
        if rank is not None:
            ranks[name] = check_rank(layer, rank, scheme=scheme, **found.left(name, filters))
    return found.built(filters, ranks, scheme=scheme)


def latency(
    model: nn.Module, input_shape: tuple[int, ...], batch: int = 1, *, seconds: float = 1.0
) -> float:
    """Median seconds of a forward pass of ``batch`` images, in evaluation mode, after a warm-up.

    On the model's device, which is waited for, and with as many threads as PyTorch is set to.
    ``seconds`` is how long it measures at least. Random images. Raises ``ValueError`` for no images
    or no time.
    """
    # it warns where there is a CUDA toolkit and no GPU
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer  # here, because it imports setuptools

    if batch < 1 or not seconds > 0:
        raise ValueError(f"batch is {batch} and seconds {seconds}; both must be positive")
    copied = copy.deepcopy(model).eval()
    like = next(copied.parameters())
    images = torch.randn(batch, *input_shape, generator=torch.Generator().manual_seed(0))
    images = images.to(like.device, like.dtype)
    timer = Timer(
        "model(images)",
        globals={"model": copied, "images": images},
        num_threads=torch.get_num_threads(),  # it would take 1
    )
    with torch.inference_mode():
        timer.timeit(3)  # the first passes choose kernels and fill caches
        return timer.blocked_autorange(min_run_time=seconds).median


def check_scheme(scheme: int) -> None:
    if scheme not in (1, 2):
        raise ValueError(f"scheme is {scheme!r}; choose 1 (k × k, 1 × 1) or 2 (k × 1, 1 × k)")


def check_rank(cost: Layer, rank: int, *, scheme: int, **left: int | None) -> int:
    """``rank`` as an int, if the layer's matrix can have it."""
    if cost.groups != 1:
        raise ValueError(f"{cost.name!r} is a convolution of {cost.groups} groups: leave it whole")
    (rank,) = integers([rank], f"the rank of {cost.name!r}")
    most = cost.most(scheme=scheme, **left)
    if not 1 <= rank <= most:
        raise ValueError(f"the rank of {cost.name!r} is {rank}, which is not in 1..{most}")
    return rank


def named(costs: Mapping[str, Layer], name: str) -> Layer:
    if name not in costs:
        raise ValueError(f"unknown layer {name!r}: choose one of {', '.join(costs)}")
    return costs[name]


def _layer(name: str, layer: nn.Module, read: Tensor, returned: Tensor) -> Layer:
    filters, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        places = read.numel() // inputs
        return Layer(name, inputs, filters, (1, 1), (1, places), places, 1)
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"{name!r} is a {type(layer).__name__}; MACs are of Conv2d and Linear")
    places = tuple(returned.shape[-2:])
    return Layer(name, inputs, filters, layer.kernel_size, places, read.shape[-1], layer.groups)
