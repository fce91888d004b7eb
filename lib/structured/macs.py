"""MACs, layer by layer, of a network and of the smaller one before it is built; and seconds."""

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lib.layers import compressible
from lib.structured.filters import Structure, structure


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer, as far as MACs go; a linear layer has 1 × 1 kernels."""

    name: str
    inputs: Any  # c_in of one group, an int or a tensor
    filters: Any  # c_out
    kernel: tuple[int, ...]
    places: tuple[int, ...]  # height and width of what it returns
    width: int  # of what it reads
    groups: int

    def macs(self, *, rank: int | Tensor | None = None, scheme: int = 1) -> Any:
        """MACs of one image, in factors of a rank or (None) whole.

            whole       A·k²·c_in·c_out       c_in of one group: 1 of a depthwise convolution
            scheme 1    A·r·(k²·c_in + c_out)
            scheme 2    A·r·k·(s·c_in + c_out)

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
            return height * width * k1 * k2 * self.inputs * self.filters
        if scheme == 1:
            return height * width * rank * (k1 * k2 * self.inputs + self.filters)
        # the k × 1 convolution strides over rows alone: it returns every column it reads
        return height * rank * (self.width * k1 * self.inputs + width * k2 * self.filters)

    def factors(self) -> bool:
        """Whether it may be two. A depthwise layer may not, nor what is left of it in one channel.

        Nor may other grouped convolutions.
        """
        return self.groups == 1 and max(self.inputs, self.filters) > 1

    def most(self, *, scheme: int = 1) -> int:
        """The largest rank its matrix can have."""
        check_scheme(scheme)
        k1, k2 = self.kernel
        if scheme == 1:
            return min(self.filters, self.inputs * k1 * k2)
        return min(self.filters * k2, self.inputs * k1)


@dataclass(frozen=True, kw_only=True)
class Costs(Structure):
    """A network's layers, and who takes whose filters: what :func:`costs` returns."""

    layers: dict[str, Layer]

    def left(self, name: str, filters: Mapping[str, int | Tensor]) -> Layer:
        """A layer with so many ``filters`` left, its own and those that it reads."""
        layer = self.layers[name]
        # a depthwise layer has as many channels as the layer before has filters
        own = filters.get(self.depthwise.get(name, name), layer.filters)
        feed, inputs = self.feeds.get(name), layer.inputs
        if feed is not None and feed.source in filters:
            inputs = filters[feed.source] * feed.per_filter
        return replace(layer, inputs=inputs, filters=own)

    def built(
        self, filters: Mapping[str, int], ranks: Mapping[str, int | None], *, scheme: int = 1
    ) -> dict[str, int]:
        """Layer name → its MACs, with so many filters left, in factors where that is cheaper.

        Exact: their sum is ``accounting.macs`` of the network that is built so. ``ranks`` are those
        of the layers with these filters left; what is not named, or None, stays whole.
        """
        found = {}
        for name in self.layers:
            left, rank = self.left(name, filters), ranks.get(name)
            found[name] = left.macs()
            if rank is not None and left.factors():
                found[name] = min(found[name], left.macs(rank=rank, scheme=scheme))
        return found


def costs(model: nn.Module, *, filters: bool = True, input_shape: tuple[int, ...]) -> Costs:
    """What is asked once to count many choices: the layers, and if ``filters`` who follows whom.

    Raises as :func:`layers` and :func:`structure`; without ``filters`` none is said to leave, and
    the extra is not needed.
    """
    followers = structure(model, input_shape=input_shape) if filters else Structure()
    return Costs(layers=layers(model, input_shape=input_shape), **vars(followers))


def layers(model: nn.Module, *, input_shape: tuple[int, ...]) -> dict[str, Layer]:
    """Layer name → its ``Layer``, of every convolution and linear layer that a forward pass calls.

    ``input_shape`` is (channels, height, width) of an image. In the network's order. One forward
    pass, of a copy. Raises ``ValueError`` that names the layer: one that is called twice, and
    convolutions in one or three dimensions.
    """
    copied = copy.deepcopy(model).eval()
    found: dict[str, Layer] = {}

    def note(name: str, layer: nn.Module, read: tuple[Tensor], returned: Tensor) -> None:
        if name in found:
            raise ValueError(f"{name!r} is called twice; its MACs are not known here")
        found[name] = _layer(name, layer, read[0], returned)

    order = list(compressible(copied))
    for name in order:
        copied.get_submodule(name).register_forward_hook(partial(note, name))
    like = next(copied.parameters())
    with torch.no_grad():
        copied(torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device))
    return {name: found[name] for name in order if name in found}


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


def _layer(name: str, layer: Any, read: Tensor, returned: Tensor) -> Layer:
    filters, inputs = layer.weight.shape[:2]
    if isinstance(layer, nn.Linear):
        count = read.numel() // inputs
        return Layer(name, inputs, filters, (1, 1), (1, count), count, 1)
    if not isinstance(layer, nn.Conv2d):
        raise ValueError(f"{name!r} is a {type(layer).__name__}; MACs are of Conv2d and Linear")
    places = tuple(returned.shape[-2:])
    return Layer(name, inputs, filters, layer.kernel_size, places, read.shape[-1], layer.groups)
