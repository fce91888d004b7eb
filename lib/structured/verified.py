"""Whether filters may leave: tried, on a copy with other weights."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lib.accounting import counted
from lib.layers import Example, Given, clone, example, fewest
from lib.structured.cut import cut, silence
from lib.structured.factors import empty_factors, put
from lib.structured.graph import NORMS, Structure
from lib.structured.macs import Costs
from lib.structured.traced import tensors

#: How many choices of filters are tried, the first of them one filter in each layer.
DRAWS = 3

#: By what share of the largest output the two networks may differ, in float64 and in float32.
CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}


def verified(model: nn.Module, dense: Costs, found: Structure, inputs: Example) -> Costs:
    """``dense`` with those filters of ``found`` that may leave; why others stay is said.

    They may where the network without them and the one in which they are zero return the same, and
    where the former costs what is predicted. Weights, biases, and the statistics, scales and shifts
    of normalisation are drawn, so that they do not agree by chance.
    """
    trial = _Trial(model, dense, found, inputs)
    reasons: dict[str, str] = {}
    kept = _passing(trial.failing, [], list(found.sources), reasons)
    stays = found.stays | reasons
    stays |= {n: stays[leader] for n, leader in found.joined.items() if leader not in kept}
    return only(dense, replace(found, stays=stays), kept)


def two_layers(model: nn.Module, dense: Costs, given: Given) -> Costs:
    """``dense`` with the layers that may be two: the network runs with them, at the cost predicted.

    It may not where it asks a layer for its weight, or calls it by another name.
    """

    def fits(names: list[str]) -> bool:
        built = clone(model)
        for name in names:
            layer: Any = built.get_submodule(name)
            c_out, c_in = layer.weight.shape[:2]
            two = empty_factors(layer, (c_in, 1, c_out), 1)
            for parameter in two.parameters():
                nn.init.zeros_(parameter)
            put(built, name, two)
        spent = sum(dense.layers[name].macs(rank=1) for name in names)
        whole = sum(dense.layers[name].macs() for name in names)
        try:
            _run(built, example(built, given, items=fewest(built)))
            return sum(counted(built, given, ()).values()) - spent == total - whole
        except Exception:  # the network's own code
            return False

    total = sum(dense.built({}, {}).values())
    names = [name for name, layer in dense.layers.items() if layer.factors()]
    passed = set(_passing(lambda found: None if fits(found) else "", [], names, {}))
    found = {
        name: replace(layer, whole=layer.whole or name not in passed)
        for name, layer in dense.layers.items()
    }
    return replace(dense, layers=found)


def _passing(
    failing: Callable[[list[str]], str | None],
    kept: list[str],
    names: list[str],
    reasons: dict[str, str],
) -> list[str]:
    """Those of ``names`` that do not fail beside ``kept``: by halves; ``reasons`` of the others."""
    why = failing([*kept, *names])
    if why is None:
        return names
    if len(names) == 1:
        reasons[names[0]] = why
        return []
    half = len(names) // 2
    first = _passing(failing, kept, names[:half], reasons)
    return first + _passing(failing, [*kept, *first], names[half:], reasons)


def only(dense: Costs, found: Structure, kept: list[str]) -> Costs:
    """``dense`` with what ``found`` says of the layers ``kept``, of no others."""
    left = set(kept)
    feeds = {
        name: tuple(feed for feed in feeds if feed.source in left)
        for name, feeds in found.feeds.items()
    }
    channels = {
        name: {source: part for source, part in parts.items() if source in left}
        for name, parts in found.channels.items()
    }
    return replace(
        dense,
        sources={name: count for name, count in found.sources.items() if name in left},
        joined={name: source for name, source in found.joined.items() if source in left},
        feeds={name: feed for name, feed in feeds.items() if feed},
        depthwise={name: source for name, source in found.depthwise.items() if source in left},
        norms={source: names for source, names in found.norms.items() if source in left},
        channels={name: parts for name, parts in channels.items() if parts},
        stays=found.stays,
    )


class _Trial:
    def __init__(self, model: nn.Module, dense: Costs, found: Structure, inputs: Example):
        self.dense, self.found = dense, found
        generator = torch.Generator().manual_seed(0)
        self.model, self.inputs, self.dtype = _precise(model, inputs, generator)
        self.draws: list[dict[str, Tensor]] = []
        for share in [0.0, *[0.6] * (DRAWS - 1)]:
            keep = {}
            for name, count in found.sources.items():
                keep[name] = torch.rand(count, generator=generator) < share
                keep[name][int(torch.randint(count, (), generator=generator))] = True
            self.draws.append(keep)

    def failing(self, names: list[str]) -> str | None:
        """Why these cannot leave together; None where they can."""
        costs = only(self.dense, self.found, names)
        for draw in self.draws:
            keep = {name: draw[name] for name in names}
            without, silent = clone(self.model), clone(self.model)
            cut(without, costs, keep)
            silence(silent, costs, keep)
            try:
                returned, spent = _run(without, self.inputs), self._spent(without)
            except Exception as error:  # the network's own code on other shapes
                said = str(error).partition("\n")[0]
                return f"the network without them does not run: {said}"
            if not _close(returned, _run(silent, self.inputs), CLOSE[self.dtype]):
                return "without them it returns something else than with zeros in their place"
            filters = {name: int(kept.sum()) for name, kept in keep.items()}
            predicted = sum(costs.built(filters, {}).values())
            if spent != predicted:
                return "they are in products of other operations than layers"
        return None

    def _spent(self, model: nn.Module) -> int:
        given: Any = self.inputs.named or self.inputs.positional
        return sum(counted(model, given, ()).values())


@torch.no_grad()
def _run(model: nn.Module, inputs: Example) -> list[Tensor]:
    """What a copy returns in evaluation mode, with whatever fused kernels there are."""
    return tensors(inputs.call(model.eval()))


def _close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> bool:
    if [each.shape for each in found] != [each.shape for each in expected]:
        return False
    return all(
        bool(((a - b).abs() <= tolerance * b.abs().max()).all())
        for a, b in zip(found, expected, strict=True)
        if a.numel()
    )


def _precise(
    model: nn.Module, inputs: Example, generator: torch.Generator
) -> tuple[nn.Module, Example, torch.dtype]:
    """A copy with drawn numbers, in float64 where the network computes in that, else in float32."""
    for dtype in (torch.float64, torch.float32):
        copied = _cast(model, dtype)
        cast = torch.utils._pytree.tree_map(
            lambda value, dtype=dtype: (
                value.to(dtype)
                if isinstance(value, Tensor) and value.is_floating_point()
                else value
            ),
            tuple(inputs),
        )
        placed = Example(*cast)
        for draw in (True, False):
            if draw:
                _draw(copied, generator)
            else:
                copied = _cast(model, dtype)
            try:
                returned = _run(clone(copied), placed)
            except Exception:  # it names a dtype somewhere
                break
            if all(bool(each.isfinite().all()) for each in returned):
                return copied, placed, dtype
    return copied, placed, torch.float32


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy with floats of this dtype; what layers share they share still."""
    copied, made = clone(model), {}
    for module in copied.modules():
        for own in (module._parameters, module._buffers):
            for name, value in list(own.items()):
                if value is not None and value.is_floating_point():
                    if id(value) not in made:
                        kind = nn.Parameter if isinstance(value, nn.Parameter) else Tensor.detach
                        made[id(value)] = value, kind(value.detach().to(dtype))
                    setattr(module, name, made[id(value)][1])
    return copied


@torch.no_grad()
def _draw(model: nn.Module, generator: torch.Generator) -> None:
    """Weights as of a network that was just made; scales near 1, shifts and means near 0."""

    def put(value: Tensor, drawn: Tensor) -> None:
        value.copy_(drawn.to(value))

    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            deviation = (parameter.numel() / len(parameter)) ** -0.5
            put(parameter, torch.randn(parameter.shape, generator=generator) * deviation)
        elif name.endswith("weight"):
            put(parameter, torch.rand(parameter.shape, generator=generator) + 0.5)
        else:
            put(parameter, torch.randn(parameter.shape, generator=generator) / 2)
    for module in model.modules():
        norm: Any = module
        if isinstance(module, NORMS) and norm.running_mean is not None:
            put(norm.running_mean, torch.randn(norm.num_features, generator=generator))
            spread = torch.rand(norm.num_features, generator=generator)
            put(norm.running_var, spread * 1.5 + 0.5)
