"""A budget in bytes of the file: ADMM whose knapsacks pay for positions and codebooks too.

The papers' budget counts bits of nonzero weights. In a file a nonzero also has a place, which costs
several times as much where few are left, and a layer has a codebook. Here both are in the costs, at
what they come to in a file of the network as it is, measured after each projection.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib import archive
from lib.networks import compressible
from lib.optimizers.admm import ADMM, BITWIDTHS
from lib.optimizers.method import Method
from lib.projections.codebook import assign, fit_codebooks
from lib.projections.knapsack import MAX_BITWIDTH, project_fixed_bitwidth
from lib.projections.multiple_choice import Option, greedy, undominated
from lib.surgery import feeds, norms

#: Costs are counted in halves of a bit, so that a nonzero may cost up to 32 bits.
UNIT = 2

#: Bits of a position before any was measured.
FIRST_POSITION = 6.0

#: Bits of a codebook's value in the file, where they are rounded to 8 significant ones.
VALUE_BITS = 16

#: What the last projection aims at, of the bytes asked for: tuning and rounding change the file.
AIM = 0.985

#: Significant bits of biases and normalisation, the most and the least, and of codebooks.
SIGNIFICANT = (8, 3)

#: Bisections of the budget when the training ends; each halves what is unknown of it.
HALVINGS = 12


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
    graph; one whose graph is not known keeps them.

    ``network``, ``classes`` and ``channels`` are the file's (:func:`lib.archive.write`),
    ``input_shape`` (channels, height, width) an image's; other options are :class:`ADMM`'s. A
    heuristic; a period costs ADMM's and one coding of the network.

    Raises ``ValueError`` as ADMM does, and (from ``start``) for a file smaller than the network's
    with all weights zero: it says the least that is possible.
    """

    def __init__(
        self,
        *,
        file_bytes: int,
        input_shape: Sequence[int],
        network: str = "",
        classes: int = 0,
        channels: int = 0,
        rho: float = 0.05,
        start_bits: int = 3,
        periods_per_epoch: int = 1,
        growth: float = 1.0,
    ):
        super().__init__(
            budget=8 * file_bytes,
            rho=rho,
            start_bits=start_bits,
            periods_per_epoch=periods_per_epoch,
            growth=growth,
        )
        self.file_bytes, self.input_shape = file_bytes, tuple(input_shape)
        self.described = {"network": network, "classes": classes, "channels": channels}

    def start(self, model: nn.Module) -> None:
        self.model = model
        self.graph = _graph(model, self.input_shape)
        layers = len(compressible(model))
        self.positions = torch.full((layers,), FIRST_POSITION)
        self.correction = 1.0
        least = least_bytes(model, **self.described)
        if self.file_bytes <= least:
            raise ValueError(
                f"a file of {self.file_bytes:,} bytes is impossible for this network: with every "
                f"weight zero it takes {least:,}; ask for more"
            )
        self.fixed = 8 * least
        super().start(model)

    def _project(self) -> None:
        """As ADMM's, at the file's costs."""
        units = self._units(self.file_bytes)
        project_fixed_bitwidth(self.w, self._costs(), budget=units, out=self.w)
        target = torch._foreach_add(self.w, self.u)
        self._project_v(target, units)
        torch._foreach_copy_(self.u, torch._foreach_sub(target, self.v))
        self.rho.mul_(self.growth)
        torch._foreach_div_(self.u, self.growth)
        torch._foreach_copy_(self.anchor, torch._foreach_sub(self.v, self.u))
        self._measure()

    def _project_v(self, target: list[Tensor], units: int) -> None:
        counts = self._paying()
        books = fit_codebooks(target, widest=[max(BITWIDTHS)] * len(counts), free_zero=True)
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
        file = self._file(self.compressed())
        table = archive.sizes(archive.Archive(file)).set_index("name")
        layers = table.loc[[f"{name}.weight" for name in self.names]]
        kept = torch.tensor(layers["kept"].to_numpy())
        bits = torch.tensor(layers["position_bits"].to_numpy(), dtype=torch.float32)
        self.positions = torch.where(kept > 0, bits / kept.clamp(1), self.positions)
        columns = ["position_bits", "value_bits", "codebook_bits"]
        paid = float(layers[columns].to_numpy().sum())
        self.fixed = 8 * len(archive.encode(file, **self.described)) - paid
        # of the weights that the knapsack kept some are gone in the file
        kept = torch.tensor(self._paying())
        said = ((self.bits + self.positions) * kept + VALUE_BITS * 2.0**self.bits).sum()
        self.correction = float(said) / max(paid, 1.0)

    def _file(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's state with ``weights`` as it would be written."""
        state = copy.deepcopy(self.model.state_dict())
        for name, weight in weights.items():
            state[f"{name}.weight"] = weight.clone()
        silence(state, self.graph)
        return rounded(state, sum(SIGNIFICANT) // 2)

    @torch.no_grad()
    def finish(self) -> bool:
        """Bisects what the knapsack may spend, until the file takes what was aimed at."""
        weights = [w.clone() for w in self.w]
        low, high = 0, 2 * self._units(self.file_bytes)
        for _ in range(HALVINGS):
            middle = (low + high) // 2
            project_fixed_bitwidth(weights, self._costs(), budget=middle, out=self.w)
            size = len(archive.encode(self._file(self.compressed()), **self.described))
            low, high = (middle, high) if size <= AIM * self.file_bytes else (low, middle)
        project_fixed_bitwidth(weights, self._costs(), budget=low, out=self.w)
        state = self.model.state_dict()
        for name, weight in self.compressed().items():
            state[f"{name}.weight"].copy_(weight)
        silence(state, self.graph)
        return True

    def state_dict(self) -> dict:
        mine = {"positions": self.positions, "correction": self.correction, "fixed": self.fixed}
        return super().state_dict() | mine

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.positions = state["positions"].cpu()
        self.correction, self.fixed = state["correction"], state["fixed"]


class FitFile(Method):
    """Rounds a compressed network so that its file takes at most ``file_bytes`` bytes.

    Biases and normalisation get as many significant bits, 8 to 3, as fit, codebooks 8. Where even
    3 do not fit, the smallest weights go, layer and all alike by w², until they do: exact to the
    byte, and no training follows. Training on is for before this stage, which takes no epochs.

    Raises ``ValueError`` (from ``start``) where the file cannot be that small.
    """

    def __init__(
        self, *, file_bytes: int, network: str = "", classes: int = 0, channels: int = 0
    ):
        self.file_bytes = file_bytes
        self.described = {"network": network, "classes": classes, "channels": channels}

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        state = model.state_dict()
        most, least = SIGNIFICANT
        for significant in range(most, least - 1, -1):
            fitting = rounded(state, significant)
            if len(archive.encode(fitting, **self.described)) <= self.file_bytes:
                break
        else:
            fitting = self._pruned(fitting)
        for name, value in fitting.items():
            state[name].copy_(value)

    def _pruned(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network without its smallest weights: the fewest whose loss makes it fit."""
        names = [name for name, value in state.items() if value.dim() > 1]
        sizes = torch.cat([state[name].abs().flatten() for name in names])
        order = sizes[sizes > 0].sort().values
        low, high = 0, len(order)  # so many go: too few, enough
        best = None
        while high - low > 1:
            middle = (low + high) // 2
            tried = dict(state)
            for name in names:
                tried[name] = state[name] * (state[name].abs() > order[middle - 1])
            if len(archive.encode(tried, **self.described)) <= self.file_bytes:
                high, best = middle, tried
            else:
                low = middle
        if best is None:
            raise ValueError(
                f"a file of {self.file_bytes:,} bytes is impossible for this network: ask for more"
            )
        return best


def least_bytes(model: nn.Module, **described) -> int:
    """The file's size with every compressible weight zero, all else rounded: none is smaller."""
    layers = {f"{name}.weight" for name in compressible(model)}
    state = {
        name: torch.zeros_like(value) if name in layers else value
        for name, value in model.state_dict().items()
    }
    return len(archive.encode(rounded(state, min(SIGNIFICANT)), **described))


def rounded(state: dict[str, Tensor], significant: int) -> dict[str, Tensor]:
    """Matrices to 8 significant bits, which their codebooks get; everything smaller to so many."""
    return {
        name: value
        if not value.is_floating_point()
        else round_to(value, SIGNIFICANT[0] if value.dim() > 1 else significant)
        for name, value in state.items()
    }


def round_to(values: Tensor, significant: int) -> Tensor:
    """The nearest floats with ``significant`` leading bits, ties to even; exact, any shape."""
    mantissa, exponent = torch.frexp(values)  # 0.5 ≤ |mantissa| < 1
    return torch.ldexp((mantissa * 2**significant).round() / 2**significant, exponent)


def silence(state: dict[str, Tensor], graph: dict) -> None:
    """Zeroes what cannot matter, in place: units that nothing reaches, or that reach nothing.

    A unit without inputs may still send its bias on; that is lost, and training on makes up for it.
    """
    changed = True
    while changed:
        changed = False
        for name, (source, per_filter, norm) in graph.items():
            rows = state[f"{source}.weight"].flatten(1)
            columns = state[f"{name}.weight"].flatten(1)
            columns = columns.view(len(columns), len(rows), -1)  # (outputs, units, places)
            reached, reaching = (rows != 0).any(1), (columns != 0).any(2).any(0)
            dead = ~(reached & reaching)
            if (reached & dead).any() or (reaching & dead).any():
                changed = True
            state[f"{source}.weight"][dead] = 0
            columns[:, dead] = 0
            for owner in filter(None, (source, norm)):
                for part in ("weight", "bias") if owner == norm else ("bias",):
                    if f"{owner}.{part}" in state:
                        state[f"{owner}.{part}"][dead] = 0


def _graph(model: nn.Module, input_shape: tuple[int, ...]) -> dict:
    """Layer → (the layer whose units it reads, places of each, their BatchNorm or ``None``)."""
    try:
        found = feeds(model, input_shape=input_shape)
        followed = norms(model, input_shape=input_shape)
    except ValueError:
        return {}  # not a network whose graph is known
    return {
        name: (feed.source, feed.per_filter, followed.get(feed.source))
        for name, feed in found.items()
    }


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
    choice, _, _ = greedy(groups, max(units, least))
    return torch.tensor([option.place for option in choice])
