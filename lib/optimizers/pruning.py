"""Magnitude pruning: the smallest weights go, the others are trained on.

Han, Pool, Tran, Dally, "Learning both Weights and Connections for Efficient Neural Networks" (NIPS
2015): all at once. Zhu, Gupta, "To prune, or not to prune" (2017): gradually.
"""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from lib.projections import checks
from lib.projections.sparsity import l0_constraint
from lib.training.method import Method, kept_by_layer, per_layer


class HeldZeros(Method):
    """Plain SGD of the weights that are not zero at the start; the zeros are held."""

    label = "held zeros"
    STATE: tuple[str, ...] = ("masks",)

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        super().start(model)
        self.masks = [(w != 0).to(w.dtype) for w in self.w]

    @torch.no_grad()
    def after_step(self, lr: Tensor) -> None:
        # W ← M ⊙ W, which also undoes what momentum has brought back
        torch._foreach_mul_(self.w, self.masks)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """The weights left, by layer."""
        return kept_by_layer(self.names, self.w)


class MagnitudePruning(HeldZeros):
    """min ‖W − W̄‖² s.t. ‖W‖₀ ≤ ``keep``·n: the largest |w| stay, and are trained on.

    ``keep`` is the share of the n weights that stay, 0 to 1; ``scope`` is ``global``, over all
    layers together, or ``layer``, the same share in each, or what a list says for each. ``order``
    is ``magnitude``, or ``random``: which weights stay is then drawn from PyTorch's generator, the
    baseline that shows what the choice is worth. With ``epochs`` = 0 all the others go at
    the start, prune then retrain. Otherwise the share that is pruned rises at the end of each of
    so many first epochs, from 0 to s_f = 1 − ``keep``, by the cubic schedule of Zhu and Gupta.

    Each projection is exact, equal weights by (layer, index). What is pruned stays pruned, so the
    masks are nested. A heuristic for the network's loss: no weight comes back. A step costs one
    pass over the weights more than SGD, a projection a few. The schedule's ``clip`` counts the
    gradients of pruned weights too.

    Raises ``ValueError`` for a share out of range, an unknown scope or order, a list of a global
    scope, or (from ``start``) of another length, and a negative ``epochs``.
    """

    label = "magnitude pruning"
    STATE: tuple[str, ...] = (*HeldZeros.STATE, "epoch")

    def __init__(
        self,
        *,
        keep: float | Sequence[float],
        scope: str = "global",
        epochs: int = 0,
        order: str = "magnitude",
    ):
        for share in keep if isinstance(keep, Sequence) else [keep]:
            checks.within("keep", share, 0, 1, remedy="the share of weights that stay")
        checks.one_of("scope", scope, ("global", "layer"))
        if isinstance(keep, Sequence) and scope == "global":
            raise ValueError("keep lists a share for each layer: choose scope='layer'")
        checks.one_of("order", order, ("magnitude", "random"))
        checks.within("epochs", epochs, 0, remedy="0 prunes all at the start")
        self.keep, self.scope, self.epochs, self.order = keep, scope, epochs, order
        if order == "random":
            self.STATE = (*self.STATE, "scores")

    @torch.no_grad()
    def start(self, model: nn.Module) -> None:
        super().start(model)
        self.shares = per_layer(self.keep, len(self.w), "keep")
        self.scores = self.w  # by which weights stay
        if self.order == "random":
            self.scores = [torch.rand(w.shape).to(w) + 1 for w in self.w]  # none is zero
        self.epoch = 0
        if self.epochs == 0:
            self._prune()

    @torch.no_grad()
    def after_period(self) -> None:
        self.epoch += 1
        if self.epoch <= self.epochs:
            self._prune()

    def _kept(self, share: float) -> float:
        """1 − s_t, the share of weights that stay after t epochs, where ``share`` is to stay."""
        if self.epoch >= self.epochs:
            return share  # exactly, not to rounding
        # s_t = s_f + (s_i − s_f)(1 − t/n)³, s_i = 0
        final = 1 - share
        return 1 - (final - final * (1 - self.epoch / self.epochs) ** 3)

    def _prune(self) -> None:
        masks = self._masks([self._kept(share) for share in self.shares])
        # in place: a recorded step keeps the masks' addresses
        torch._foreach_copy_(self.masks, masks)
        torch._foreach_mul_(self.w, masks)

    def _masks(self, shares: list[float]) -> list[Tensor]:
        """1 where a weight stays; weights that are pruned already stay pruned."""
        scores = torch._foreach_mul(self.scores, self.masks)
        groups = [scores] if self.scope == "global" else [[s] for s in scores]
        kept = [
            l0_constraint(group, keep=int(share * sum(s.numel() for s in group)))
            for group, share in zip(groups, shares, strict=False)  # a global one is all of one
        ]
        return [(s != 0).to(s.dtype) for s in chain(*kept)]

    @torch.no_grad()
    def compressed(self) -> dict[str, Tensor]:
        """The weights pruned to ``keep``, however far the schedule has come."""
        kept = torch._foreach_mul(self.w, self._masks(self.shares))
        return dict(zip(self.names, kept, strict=True))

    @torch.no_grad()
    def finish(self) -> bool:
        """Prunes what is left to prune if training ended before the schedule did."""
        kept = list(self.compressed().values())
        if all(map(torch.equal, self.w, kept)):
            return False
        torch._foreach_copy_(self.w, kept)
        return True
