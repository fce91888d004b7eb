"""What DF is measured against: filters or ranks chosen by a criterion, within a budget of MACs.

The first two choose at once and train nothing: a stage of no epochs, then one that trains on.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lib.layers import Given, as_given
from lib.optimizers.lc import LC
from lib.projections import checks
from lib.projections.svt import matricize
from lib.structured import (
    become,
    choose_filters,
    costs,
    factor,
    filter_dimensions,
    filters_of,
    group_magnitude,
    least,
    ranks_for_macs,
    remove_filters,
    structure,
    within_budget,
)
from lib.training.method import Method


class Structured(Method):
    """A method that leaves a smaller network of ``budget`` MACs when it ends.

    Raises ``ValueError``, from ``finish``, for a budget that cannot be met; it names the layer that
    costs most.
    """

    then = "sgd"

    def __init__(self, *, budget: int, input_shape: Given):
        self.budget, self.input_shape = budget, as_given(input_shape)

    def smaller(self) -> nn.Module:
        """The network built."""
        raise NotImplementedError

    @torch.no_grad()
    def finish(self) -> bool:
        smaller = self.smaller()
        within_budget(smaller, self.budget, self.input_shape)
        become(self.model, smaller)
        return True


class FilterPruning(Structured):
    """The filters of the highest scores stay.

    ``score``: ``l1``, the sum of a filter's absolute weights, the same share of every layer's
    filters (Li, Kadav, Durdanovic, Samet, Graf, "Pruning Filters for Efficient ConvNets", ICLR
    2017); or ``group-magnitude``, Torch-Pruning's, over all layers together
    (:func:`lib.structured.group_magnitude`).
    """

    label, at_once = "filter pruning", True

    def __init__(self, *, score: str = "l1", **options):
        super().__init__(**options)
        checks.one_of("score", score, ("l1", "group-magnitude"))
        self.score = score

    def smaller(self) -> nn.Module:
        place: Any = {"input_shape": self.input_shape}
        if self.score == "l1":
            found = structure(self.model, **place)
            scores = {name: self._share(found.members(name)) for name in found.sources}
        else:
            scores = group_magnitude(self.model, **place)
        keep = choose_filters(self.model, scores, budget=self.budget, **place)
        return remove_filters(self.model, keep, **place)

    def _share(self, layers: list[str]) -> Tensor:
        """The share of the layer's filters whose norm is no larger: one order for all layers.

        Of layers whose filters leave together, of the norms' sum; of a recurrent layer's units all
        gates count.
        """
        sums: Any = 0
        for name in layers:
            layer: Any = self.model.get_submodule(name)
            for part, dimension in filter_dimensions(layer).items():
                if part.startswith("weight"):
                    rows = getattr(layer, part).transpose(0, dimension).abs().flatten(1).sum(1)
                    sums = sums + rows.view(-1, filters_of(layer)).sum(0)
        return (sums.argsort().argsort() + 1) / len(sums)


def uniform(matrix: Tensor) -> Tensor:
    """The share of its ranks that a layer is without, before each: the same one for all layers."""
    most = min(matrix.shape)
    return 1 - torch.arange(most) / most


def energy(matrix: Tensor) -> Tensor:
    """The share of Σσ² that is left out, before each rank: one threshold for all layers."""
    squares = torch.linalg.svdvals(matrix.double()).square()
    return squares.flip(0).cumsum(0).flip(0) / squares.sum().clamp_min(torch.finfo().tiny)


#: By what the ranks of all layers are chosen together: the layer with the highest score gets one.
CRITERIA: dict[str, Callable[[Tensor], Tensor]] = {"uniform": uniform, "energy": energy}


class RankSelection(Structured):
    """Every layer in factors of the rank that one criterion gives it.

    ``criterion``: ``uniform``, the same share of its ranks in each layer; or ``energy``, the least
    rank that leaves no more than a share of Σσ², the same in each.
    """

    label, at_once = "SVD", True

    def __init__(self, *, criterion: str = "energy", **options):
        super().__init__(**options)
        checks.one_of("criterion", criterion, CRITERIA)
        self.criterion = criterion

    def smaller(self) -> nn.Module:
        place: Any = {"input_shape": self.input_shape}
        ranks = ranks_for_macs(
            self.model,
            lambda _, matrix: CRITERIA[self.criterion](matrix),
            budget=self.budget,
            **place,
        )
        return factor(self.model, ranks, **place)


class LearnedRanks(LC):
    """LC with a C step that gives each layer its rank: min ‖w − θ‖² within ``budget`` MACs.

    Every C step chooses the ranks anew (``lib.projections.lowrank.ranks_for_budget``); a layer may
    stay whole. When training ends θ is built as factors. Idelbayev and Carreira-Perpiñán,
    "Low-rank compression of neural nets: learning the rank of each layer" (CVPR 2020), which
    prices a rank instead: the price that meets the budget is found in each C step.

    ``periods_per_epoch`` is how many C steps there are in an epoch, if ``epochs_per_step`` is 1;
    ``options`` are those of ``LC``. Grouped convolutions stay whole. Raises
    ``ValueError`` for a budget that no ranks can meet.
    """

    label, then = "LC, learned ranks", "sgd"

    def __init__(
        self,
        *,
        budget: int,
        input_shape: Given,
        periods_per_epoch: int = 1,
        **options,
    ):
        super().__init__(cost="rank-constraint", amount=1.0, **options)
        self.budget, self.input_shape = budget, as_given(input_shape)
        self.periods_per_epoch = periods_per_epoch

    def _bounds(self) -> list[object]:
        found = costs(self.model, filters=False, input_shape=self.input_shape)
        least(found, self.budget, filters={}, factored=True)
        layers = [found.layers.get(name) for name in self.names]
        self.factored = {name for name, layer in found.layers.items() if layer.factors()}
        # a rank that costs as much as the whole of a layer is never chosen
        whole = [layer.macs() if layer else 0 for layer in layers]
        prices = [
            layer.macs(rank=1) if layer and layer.factors() else most
            for layer, most in zip(layers, whole, strict=True)
        ]
        others = sum(layer.macs() for name, layer in found.layers.items() if name not in self.names)
        budget = self.budget - found.rest - others
        return [{"budget": budget, "prices": prices, "whole": whole, "least": 1}]

    @torch.no_grad()
    def finish(self) -> bool:
        super().finish()
        ranks = {
            name: int(torch.linalg.matrix_rank(matricize(theta).double(), rtol=1e-5))
            for name, theta in zip(self.names, self.theta, strict=True)
            if name in self.factored
        }
        smaller = factor(self.model, ranks, input_shape=self.input_shape)
        within_budget(smaller, self.budget, self.input_shape)
        become(self.model, smaller)
        return True
