"""A budget in bytes of the file: ADMM whose knapsacks pay for positions and codebooks too.

The papers' budget counts bits of nonzero weights. In a file a nonzero also has a place, which costs
several times as much where few are left, and a layer has a codebook. Here both are in the costs, at
what they come to in a file of the network as it is, measured after each projection.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib import archive
from lib.layers import compressible
from lib.optimizers.admm import ADMM, BITWIDTHS
from lib.projections.codebook import assign, fit_codebooks
from lib.projections.knapsack import MAX_BITWIDTH, project_fixed_bitwidth
from lib.projections.multiple_choice import Option, greedy, undominated
from lib.projections.precision import each, round_to, rounded
from lib.structured import CONVOLUTIONS, listed, structure
from lib.training.method import Method

#: Costs are counted in halves of a bit, so that a nonzero may cost up to 32 bits.
UNIT = 2

#: Bits of a position before any was measured.
FIRST_POSITION = 6.0

#: Bits of a codebook's value in the file, where they are rounded to 8 significant ones.
VALUE_BITS = 16

#: What the last projection aims at, of the bytes asked for: tuning and rounding change the file.
AIM = 0.985

#: Significant bits of a codebook's values, and of biases and normalisation, the most and the least.
CODEBOOK = 8
OTHERS = (24, 3)

#: What they have while the file is only measured.
MEANWHILE = 5

#: How finely the last projection's budget is chosen: in so many steps from nothing to all.
STEPS = 2**13


class FileADMM(ADMM):
    """min ℓ(W) subject to a file of at most ``file_bytes`` bytes, by ADMM's Algorithm 1.

    Where ADMM counts Σ bᵢ·‖Wᵢ‖₀ bits, here a kept weight of layer i costs bᵢ + πᵢ, πᵢ being what a
    position cost in the file of the network after the last projection, and a layer also pays for
    its codebook, 2^bᵢ values of 16 bits; the rest of the file (header, biases, normalisation) is
    taken off the budget. What the file then takes against what the costs said corrects the next
    budget. ``finish`` leaves a network whose file takes some 1.5 % less than asked for, which
    training on and rounding (:class:`FitFile`) may use up.

    Units and filters that nothing reaches, or that reach nothing, are zero from then on, their
    biases too: the file has them for next to nothing. Which feeds which is read off the network's
    graph, for which ``input_shape`` (channels, height, width) is needed; a network whose graph is
    not known (:func:`lib.structured.prunable`) keeps them. ``as_written`` makes of a state dict
    what will be written of it, where that has other dtypes.

    ``network``, ``classes`` and ``channels`` are the file's (:func:`lib.archive.write`); other
    options are :class:`ADMM`'s. A
    heuristic; a period costs ADMM's and one coding of the network.

    Raises ``ValueError`` as ADMM does, and (from ``start``) for a file smaller than the network's
    with all weights zero: it says the least that is possible.
    """

    label = "ADMM for a file"
    STATE = (*ADMM.STATE, "positions", "correction", "fixed", "before")  # type: ignore[assignment]

    def __init__(
        self,
        *,
        file_bytes: int,
        input_shape: Sequence[int] | None = None,
        network: str = "",
        classes: int = 0,
        channels: int = 0,
        rho: float = 0.05,
        start_bits: int = 3,
        periods_per_epoch: int = 1,
        growth: float = 1.0,
        as_written: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    ):
        super().__init__(
            budget=8 * file_bytes,
            rho=rho,
            start_bits=start_bits,
            periods_per_epoch=periods_per_epoch,
            growth=growth,
        )
        self.file_bytes, self.input_shape = file_bytes, input_shape and tuple(input_shape)
        self.described: Any = {"network": network, "classes": classes, "channels": channels}
        self.as_written = as_written

    def start(self, model: nn.Module) -> None:
        self.graph = _graph(model, self.input_shape)
        layers = len(compressible(model))
        self.positions = torch.full((layers,), FIRST_POSITION)
        self.correction = 1.0
        least = least_bytes(model, as_written=self.as_written, **self.described)
        if self.file_bytes < least:
            raise ValueError(impossible(self.file_bytes, least))
        self.fixed: float = 8 * least
        # W as the last projection found it
        self.before = [weight.detach().clone() for weight in compressible(model).values()]
        super().start(model)

    def _project(self) -> None:
        """As ADMM's, at the file's costs."""
        super()._project()
        self._measure()

    def _project_w(self, w: list[Tensor]) -> None:
        torch._foreach_copy_(self.before, w)
        units = self._units(self.file_bytes)
        project_fixed_bitwidth(self.before, self._costs(), budget=units, out=w)

    def _project_v(self, target: tuple[Tensor, ...]) -> None:
        counts = self._paying()
        books = fit_codebooks(target, widest=[max(BITWIDTHS)] * len(counts), free_zero=True)
        units = self._units(self.file_bytes)
        self.bits = _choose(books.errors, counts, self.positions.tolist(), units)
        for v, t, centres, b in zip(self.v, target, books.centres, self.bits.tolist(), strict=True):
            v.copy_(assign(t, centres[b - 1], free_zero=True))

    def _units(self, size: float) -> int:
        """What the knapsacks may spend for a file of ``size`` bytes."""
        return max(0, int(UNIT * self.correction * (8 * size - self.fixed)))

    def _costs(self) -> list[int]:
        """Of a nonzero of each layer."""
        costs = UNIT * (self.bits + self.positions)
        return costs.round().long().clamp(1, MAX_BITWIDTH).tolist()

    def _measure(self) -> None:
        """What positions cost now, what is fixed, and how far the costs were from the file."""
        file = archive.Archive(self._file(self.compressed()), **self.described)
        table = archive.sizes(file).set_index("name")
        spent = table[[column for column in table if column.endswith("_bits")]]
        layers = table.loc[[key(name) for name in self.names]]
        kept = torch.tensor(layers["kept"].to_numpy(dtype=int))
        bits = torch.tensor(layers["position_bits"].to_numpy(dtype=float)).float()
        self.positions = torch.where(kept > 0, bits / kept.clamp(1), self.positions)
        paid = float(spent.loc[layers.index].to_numpy(dtype=float).sum())
        self.fixed = float(spent.to_numpy(dtype=float).sum()) - paid
        # of the weights that the knapsack kept some are gone in the file
        kept = torch.tensor(self._paying())
        said = ((self.bits + self.positions) * kept + VALUE_BITS * 2.0**self.bits).sum()
        self.correction = float(said) / max(paid, 1.0)

    def _file(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's state with ``weights`` as it would be written."""
        state = each(self.model.state_dict(), Tensor.clone)
        self._put(state, weights)
        return self.as_written(rounded(state, matrices=CODEBOOK, others=MEANWHILE))

    @torch.no_grad()
    def finish(self) -> bool:
        """Lands on the file: what the last projection may spend so that it takes what was aimed at.

        Where a layer of each bitwidth, whole, is still too little, all get a bit more.
        """

        def size(units: int) -> int:
            project_fixed_bitwidth(self.before, self._costs(), budget=units, out=self.w)
            return len(archive.encode(self._file(self.compressed()), **self.described))

        aim = AIM * self.file_bytes
        while size(self._whole()) < aim and int(self.bits.min()) < max(BITWIDTHS):
            self.bits = (self.bits + 1).clamp(max=max(BITWIDTHS))
        budgets = range(0, self._whole() + 1, max(1, self._whole() // STEPS))
        size(fitting(budgets, size, aim) or 0)
        self._put(self.model.state_dict(), self.compressed())
        return True

    def _put(self, state: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
        """Writes ``weights`` into the network's ``state``, and silences what is dead then."""
        put(state, {key(name): weight for name, weight in weights.items()})
        silence(state, self.graph)

    def _whole(self) -> int:
        """What all weights cost."""
        return sum(c * w.numel() for c, w in zip(self._costs(), self.w, strict=True))


class FitFile(Method):
    """Rounds a compressed network so that its file takes at most ``file_bytes`` bytes.

    Biases and normalisation get as many significant bits, 3 to 24 (all of a float32), as fit,
    codebooks 8. Where even 3 do not fit, the smallest weights of all layers go until they do. A
    file's size is taken to grow with both; no training follows. The stage takes no epochs.
    ``as_written`` is :class:`FileADMM`'s, and keeps what is not to be rounded.

    Raises ``ValueError`` (from ``start``) where the file cannot be that small.
    """

    label = "rounding to a file"

    def __init__(
        self,
        *,
        file_bytes: int,
        network: str = "",
        classes: int = 0,
        channels: int = 0,
        as_written: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    ):
        self.file_bytes, self.as_written = file_bytes, as_written
        self.described: Any = {"network": network, "classes": classes, "channels": channels}

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        super().start(model)
        state = model.state_dict()
        most, least = OTHERS

        def with_others(significant: int) -> dict[str, Tensor]:
            return self.as_written(rounded(state, matrices=CODEBOOK, others=significant))

        choices = range(least, most + 1)
        bits = fitting(choices, lambda b: self._size(with_others(b)), self.file_bytes)
        put(state, with_others(bits) if bits else self._pruned(with_others(least)))

    def _pruned(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network without its smallest weights: the fewest whose loss makes it fit."""
        weights = {key(name): state[key(name)] for name in compressible(self.model)}
        places = {weight.data_ptr() for weight in weights.values()}
        empty = each(state, lambda v: torch.zeros_like(v) if v.data_ptr() in places else v)
        found = _with_largest(empty, weights, self._size, self.file_bytes)
        if found is None:
            raise ValueError(impossible(self.file_bytes, self._size(empty)))
        return found

    def _size(self, state: dict[str, Tensor]) -> int:
        return len(archive.encode(state, **self.described))


def least_bytes(
    model: nn.Module,
    *,
    as_written: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    **described,
) -> int:
    """The file's size with every compressible weight zero, all else rounded: none is smaller."""
    places = {weight.data_ptr() for weight in compressible(model).values()}
    state = rounded(
        each(model.state_dict(), lambda v: torch.zeros_like(v) if v.data_ptr() in places else v),
        matrices=CODEBOOK,
        others=min(OTHERS),
    )
    return len(archive.encode(as_written(state), **described))


def impossible(size: int, least: int) -> str:
    """What is said of a file that cannot be that small."""
    return f"a file of {size:,} bytes is impossible for this network: the least is {least:,}"


@torch.no_grad()
def refill(
    model: nn.Module,
    reserve: Mapping[str, Tensor],
    *,
    file_bytes: int,
    significant: int = CODEBOOK,
    **described,
) -> None:
    """Gives weights that are zero their values in ``reserve`` again, the largest of them first.

    So many as fit in a file of ``file_bytes`` bytes, each to so many ``significant`` bits.
    ``reserve`` is a state dict of the same network.
    """
    state = model.state_dict()
    gone = {}
    for name in map(key, compressible(model)):
        kept = round_to(reserve[name].to(state[name]), significant)
        gone[name] = kept.where(state[name] == 0, 0)
    size = lambda made: len(archive.encode(made, **described))  # noqa: E731
    put(state, _with_largest(state, gone, size, file_bytes) or {})


def _with_largest(
    state: dict[str, Tensor],
    values: dict[str, Tensor],
    size: Callable[[dict[str, Tensor]], int],
    limit: int,
) -> dict[str, Tensor] | None:
    """``state`` with as many of ``values`` added, the largest first, as fit; None where none do.

    Of equal ones the first comes first.
    """
    sizes = torch.cat([value.abs().flatten() for value in values.values()])
    places = torch.empty_like(sizes, dtype=torch.long)
    places[sizes.argsort(descending=True, stable=True)] = torch.arange(
        len(sizes), device=sizes.device
    )
    parts = places.split([value.numel() for value in values.values()])
    added = {
        state[name].data_ptr(): (value, part.view(value.shape))
        for (name, value), part in zip(values.items(), parts, strict=True)
    }

    def made(count: int) -> dict[str, Tensor]:
        def add(old: Tensor) -> Tensor:
            value, place = added.get(old.data_ptr(), (old, None))
            return old if place is None else old + value.where(place < count, 0)

        return each(state, add)

    most = fitting(range(int(sizes.count_nonzero()) + 1), lambda n: size(made(n)), limit)
    return None if most is None else made(most)


def key(name: str) -> str:
    """Of a layer's weight in the state dict; the network's own, where it is one layer."""
    return f"{name}.weight" if name else "weight"


def put(state: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Writes ``values`` into the tensors of ``state``."""
    for name, value in values.items():
        state[name].copy_(value)


def fitting(choices: range, size: Callable[[int], int], limit: float) -> int | None:
    """The largest choice whose size, which grows with it, is within the limit; None where none."""
    place = bisect_right(choices, limit, key=size)
    return choices[place - 1] if place else None


class Unit(NamedTuple):
    """What the inputs of a layer pass: a value of ``_graph``."""

    source: str  # the layer whose filters they are
    depthwise: tuple[str, ...]
    norms: tuple[str, ...]


def silence(state: dict[str, Tensor], graph: Mapping[str, Unit]) -> None:
    """Zeroes what cannot matter, in place: units that nothing reaches, or that reach nothing.

    A unit without inputs may still send its bias on; that is lost, and training on makes up for it.
    """
    changed = True
    while changed:
        changed = False
        for name, (source, between, followed) in graph.items():
            rows = [state[f"{layer}.weight"].flatten(1) for layer in (source, *between)]
            weight = state[f"{name}.weight"]
            columns = weight.flatten(1)
            columns = columns.view(len(columns), len(rows[0]), -1)  # (outputs, units, places)
            nonzero = [(row != 0).any(1) for row in rows] + [(columns != 0).any(2).any(0)]
            alive = torch.stack(nonzero)  # (layers that units pass, units)
            dead = ~alive.all(0)
            changed = changed or bool((alive.any(0) & dead).any())
            for layer in (source, *between):
                state[f"{layer}.weight"][dead] = 0
            columns[:, dead] = 0
            # of a weight that lies channels last they are a copy
            weight.copy_(columns.view_as(weight))
            for owner in (source, *between, *followed):
                for part in ("weight", "bias") if owner in followed else ("bias",):
                    if f"{owner}.{part}" in state:
                        state[f"{owner}.{part}"][dead] = 0


def _graph(model: nn.Module, input_shape: Any) -> dict[str, Unit]:
    """Layer → the units that it reads, where it reads those of one layer alone."""
    if input_shape is None:
        return {}
    if listed(model) is None:
        return {}  # to follow the units of another network takes a forward pass for each layer
    found = structure(model, input_shape=input_shape)
    owners = Counter(value.data_ptr() for value in model.state_dict().values())
    # a unit that is dead in one place may be alive in another that shares its weights
    alone = {name for name, w in compressible(model).items() if owners[w.data_ptr()] == 1}
    readers = Counter(feed.source for feeds in found.feeds.values() for feed in feeds)
    units = {}
    for name, (feed, *others) in found.feeds.items():
        source = feed.source
        between, norms = tuple(found.followers(source)), tuple(found.norms.get(source, ()))
        layers = [model.get_submodule(each) for each in (name, source, *between)]
        if (
            not others
            and readers[source] == 1
            and found.members(source) == [source]
            and all(isinstance(layer, (*CONVOLUTIONS, nn.Linear)) for layer in layers)
            and all(found.in_order(each, source) for each in (name, *between, *norms))
            and alone.issuperset((name, source, *between))
        ):
            units[name] = Unit(source, between, norms)
    return units


def _choose(errors: Tensor, counts: list[int], positions: list[float], units: int) -> Tensor:
    """The bitwidth of each layer: ADMM's multiple-choice knapsack at the file's costs."""
    groups = []
    for row, n, place in zip(errors.tolist(), counts, positions, strict=True):
        options = [
            Option(round(UNIT * (n * (b + place) + VALUE_BITS * 2**b)), error, b)
            for b, error in zip(BITWIDTHS, row, strict=True)
        ]
        groups.append(undominated(options))
    least = sum(group[0].cost for group in groups)
    choice, _ = greedy(groups, max(units, least))
    return torch.tensor([option.place for option in choice])
