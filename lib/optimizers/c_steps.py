"""LC's C steps, by the name of their cost: to add a compression, add a projection to ``COSTS``."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.projections import checks, sparsity
from lib.projections.codebook import assign, codebook
from lib.projections.lowrank import choose_ranks, low_rank, ranks_for_budget

#: Turns of the additive C step at most; it ends with the first that does not lower its error.
TURNS = 10


class Cost(NamedTuple):
    """How the layers of a group are compressed together.

    ``bound`` makes of the layers as they are before training, and of an amount, what limits them,
    and raises ``ValueError`` for an amount out of range, of no layers too; ``project`` returns θ,
    the nearest compressed layers: (layers, bound, μ) → layers; ``pair`` says that an amount is two
    numbers, ``then`` by which method the layers can be trained on. Called with an amount, a cost
    is what :class:`lib.optimizers.LC` takes for some layers.
    """

    bound: Callable[[list[Tensor], Any], Any]
    project: Callable[[list[Tensor], Any, float], list[Tensor]]
    pair: bool = False
    then: str | None = "held-zeros"

    def __call__(self, amount: object) -> "Part":
        self.bound([], amount)  # refuses what is out of range
        return Part(self, amount)

    def listed(self, amount: object) -> bool:
        """Whether ``amount`` is a list of one for each layer."""
        if self.pair and isinstance(amount, Sequence):
            return any(isinstance(number, Sequence) for number in amount)
        return isinstance(amount, Sequence)


@dataclass(frozen=True)
class Part:
    """A cost and its amount, for some layers together."""

    cost: Cost
    amount: Any


def _weights(group: list[Tensor], share: float) -> int:
    """κ = a share of the number of weights."""
    return int(_share(share) * sum(w.numel() for w in group))


def _l1_norm(group: list[Tensor], share: float) -> float:
    return _share(share) * float(sum(w.double().abs().sum() for w in group))


def _l2_norm(group: list[Tensor], share: float) -> float:
    return _share(share) * float(sum(w.double().square().sum() for w in group)) ** 0.5


def _alpha(group: list[Tensor], alpha: float) -> float:
    return checks.within("amount", alpha, 0, remedy="of a penalty it is α")


def _share(share: float) -> float:
    return checks.within("amount", share, 0, 1, remedy="of a constraint it is a share")


def _values(group: list[Tensor], values: int) -> tuple[int, list[Tensor]]:
    """The number of values, and where weights are not zero: there they share them."""
    return _number(values), [w != 0 for w in group]


def _number(values: float) -> int:
    of = "of a codebook it is the values of a layer"
    return checks.whole("amount", values, 1, 256, remedy=of)


def _quantized(w: list[Tensor], bound: tuple[int, list[Tensor]], mu: float) -> list[Tensor]:
    values, masks = bound
    kept = [x[m] for x, m in zip(w, masks, strict=True)]
    shared = codebook(kept, values=values, free_zero=False)
    zeros = [torch.zeros_like(x) for x in w]
    return [z.masked_scatter_(m, s) for z, m, s in zip(zeros, masks, shared, strict=True)]


def _rank_weights(group: list[Tensor], share: float) -> dict[str, Any]:
    """For ``ranks_for_budget``: a share of the weights, and how many a rank and a layer have."""
    return {"budget": _weights(group, share), **_parameters(group)}


def _rank_budget(w: list[Tensor], bound: dict[str, Any], mu: float) -> list[Tensor]:
    return _factored(w, ranks_for_budget(_matrices(w), **bound).ranks)


def _rank_price(w: list[Tensor], alpha: float, mu: float) -> list[Tensor]:
    return _factored(w, choose_ranks(_matrices(w), alpha=alpha, mu=mu, **_parameters(w)).ranks)


def _matrices(w: list[Tensor]) -> list[Tensor]:
    return [x.flatten(1) for x in w]  # C_out × C_in·k²


def _parameters(w: list[Tensor]) -> dict[str, list[int]]:
    """What a rank costs in each layer, and the layer as it is."""
    return {
        "prices": [sum(m.shape) for m in _matrices(w)],
        "whole": [m.numel() for m in _matrices(w)],
    }


def _factored(w: list[Tensor], ranks: list[int | None]) -> list[Tensor]:
    return [
        x.clone() if rank is None else low_rank(m, rank=rank).product().view_as(x)
        for x, m, rank in zip(w, _matrices(w), ranks, strict=True)
    ]


def _values_and_weights(group: list[Tensor], amount: Sequence[float]) -> tuple[int, int]:
    if not isinstance(amount, Sequence) or len(amount) != 2:
        raise ValueError(f"amount = {amount} must be two numbers: values, and a share of weights")
    values, share = amount
    return _number(values), _weights(group, share)


def _sum(w: list[Tensor], bound: tuple[int, int], mu: float) -> list[Tensor]:
    # min over Q, S of ‖w − Q − S‖²; from S of the best Q alone, and from the best S alone
    values, keep = bound
    alone = codebook(w, values=values, free_zero=False)
    starts = (torch._foreach_sub(w, alone), w)
    found = [_in_turns(w, sparsity.l0_constraint(s, keep=keep), values, keep) for s in starts]
    return min(found, key=lambda layers: _error(w, layers))


def _in_turns(w: list[Tensor], sparse: list[Tensor], values: int, keep: int) -> list[Tensor]:
    """Q + S, each in turn the best for the other: of S, for where it is not zero."""
    best, least = w, math.inf
    for _ in range(TURNS):
        # what S corrects has no error whatever Q is there, so Q is made for the others
        others = [x[s == 0] for x, s in zip(w, sparse, strict=True)]
        shared = codebook(others, values=values, free_zero=False)
        levels = [s.unique() if len(s) else s.new_zeros(1) for s in shared]
        quantized = [assign(x, q, free_zero=False) for x, q in zip(w, levels, strict=True)]
        sparse = sparsity.l0_constraint(torch._foreach_sub(w, quantized), keep=keep)
        layers = list(torch._foreach_add(quantized, sparse))
        error = _error(w, layers)
        if not error < least:
            break
        best, least = layers, error
    return best


def _error(w: list[Tensor], layers: list[Tensor]) -> float:
    return float(sum(d.double().square().sum() for d in torch._foreach_sub(w, layers)))


#: The ``amount`` of each cost:
#:
#: - of an ℓ constraint the share, 0 to 1, that is left of the number of weights (ℓ0) or of their
#:   norm before (ℓ1, ℓ2);
#: - of a penalty α; of ``rank-penalty`` that is the price of one weight of the factors;
#: - of ``codebook`` the number of values that each layer's nonzero weights share; zeros stay;
#: - of ``rank-constraint`` the share of the weights that the factors of all layers may have
#:   together; a layer stays whole, here and under the penalty, where that is better;
#: - of ``codebook+l0``, a sum of a quantized and a sparse part, two: the values of each layer, and
#:   the share of the weights that is corrected.
#:
#: All are exact but ``codebook`` of a layer of over 4,096 distinct weights, which is near it,
#: ``rank-constraint``, which is greedy, and ``codebook+l0``, a local minimum, with no more error
#: than either of its parts alone.
COSTS = {
    "l0-constraint": Cost(_weights, lambda w, keep, mu: sparsity.l0_constraint(w, keep=keep)),
    "l1-constraint": Cost(_l1_norm, lambda w, r, mu: sparsity.l1_constraint(w, radius=r)),
    "l2-constraint": Cost(_l2_norm, lambda w, r, mu: sparsity.l2_constraint(w, radius=r)),
    "l0-penalty": Cost(_alpha, lambda w, a, mu: sparsity.l0_penalty(w, alpha=a, mu=mu)),
    "l1-penalty": Cost(_alpha, lambda w, a, mu: sparsity.l1_penalty(w, alpha=a, mu=mu)),
    "l2-penalty": Cost(_alpha, lambda w, a, mu: sparsity.l2_penalty(w, alpha=a, mu=mu)),
    "codebook": Cost(_values, _quantized, then="tune-codebooks"),
    "rank-constraint": Cost(_rank_weights, _rank_budget, then=None),
    "rank-penalty": Cost(_alpha, _rank_price, then=None),
    "codebook+l0": Cost(_values_and_weights, _sum, pair=True, then="tune-codebooks"),
}

#: Of some layers: ``LC({"conv1": Codebook(16), ("fc1", "fc2"): L0(0.05)})``.
L0, L1, L2 = (COSTS[f"l{p}-constraint"] for p in (0, 1, 2))
Codebook, Ranks = COSTS["codebook"], COSTS["rank-constraint"]
