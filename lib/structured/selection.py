"""From scores to a network within its budget: which filters stay, and each layer's rank.

Any criterion becomes a network here: it orders filters, or singular values, and the order is
followed as far as the MACs reach. They are those of the network that will be built, in which a
layer stays whole where factors would cost as much.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lib import accounting
from lib.layers import Given, weight_of
from lib.projections.svt import matricize
from lib.structured.filters import costs
from lib.structured.macs import REST, Costs

#: How many layers a refusal names.
NAMED = 3

#: (layer, its weight as a matrix) → one score for each singular value, σ₁'s first.
Score = Callable[[str, Tensor], Tensor]


def choose_filters(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    *,
    budget: int,
    threshold: float | None = None,
    factored: bool = False,
    scheme: int = 1,
    input_shape: Given,
    found: Costs | None = None,
) -> dict[str, Tensor]:
    """Layer → which of its filters stay, (filters,) bool: those of the highest scores that fit.

    In the order of their scores, equal ones by (layer, index), filters stay until one does not fit
    in ``budget`` MACs; later ones that do still stay. Each layer keeps its best one. Greedy, with
    no bound: whether scores are worth their MACs is the caller's business.

    Parameters
    ----------
    scores : layer of ``prunable`` → (filters,) floating.
    threshold : filters that score more stay, and others go, as far as the budget allows either.
        None: as many stay as fit.
    factored : ranks are chosen afterwards. With a ``threshold`` filters go beyond it only where
        even rank 1 everywhere is too much.
    budget : MACs of one image.
    scheme : of the factors, 1 or 2 (:func:`lib.structured.factor`).
    input_shape : (channels, height, width) of an image, or example inputs.
    found : :func:`lib.structured.costs` of ``model``, where they are known.

    Raises ``ValueError`` as ``least``.
    """
    scores = {name: score.detach().double().cpu() for name, score in scores.items()}
    found = costs(model, input_shape=input_shape) if found is None else found
    least(found, budget, filters=scores, factored=factored, scheme=scheme)
    best = {name: int(score.argmax()) for name, score in scores.items()}
    later = sorted(
        ((name, i) for name, score in scores.items() for i in range(len(score)) if i != best[name]),
        key=lambda place: -float(scores[place[0]][place[1]]),
    )

    def filled(steps: list[tuple[str, int]], ranks: dict[str, int]) -> list[tuple[str, int]]:
        def spent(counts: Mapping[str, int]) -> int:
            return sum(found.built(counts, ranks, scheme=scheme).values())

        return _fill(steps, dict.fromkeys(scores, 1), spent, budget)

    chosen = filled(later, {})
    if threshold is not None:
        wanted = [(name, i) for name, i in later if scores[name][i] > threshold]
        # more than are wanted only where they fit whole, fewer only where rank 1 is too much
        if factored and len(wanted) > len(chosen):
            chosen = max(chosen, filled(wanted, dict.fromkeys(found.layers, 1)), key=len)
    keep = {name: torch.zeros(len(score), dtype=torch.bool) for name, score in scores.items()}
    for name, i in [*best.items(), *chosen]:
        keep[name][i] = True
    return keep


def ranks_for_macs(
    model: nn.Module,
    score: Score,
    *,
    budget: int,
    scheme: int = 1,
    input_shape: Given,
    only: Collection[str] | None = None,
) -> dict[str, int | None]:
    """Layer → its rank, from 1 on; None for one that stays whole.

    Ranks grow in the order of ``score`` until one does not fit in ``budget`` MACs; later ones that
    do are still taken. Grouped convolutions and those of one channel stay whole. ``model`` is the
    network whose filters have left already. ``only``: these layers, whether they are trained or
    not, and no others. Raises ``ValueError`` as ``least``.
    """
    found = costs(model, filters=False, input_shape=input_shape, frozen=only is not None)
    if only is not None:
        kept = {n: replace(x, whole=x.whole or n not in only) for n, x in found.layers.items()}
        found = replace(found, layers=kept)
    least(found, budget, filters={}, factored=True, scheme=scheme)
    order, ranks = [], {}
    for name, layer in found.layers.items():
        if not layer.factors():
            continue
        scores = score(name, matricize(weight_of(model, name).detach(), scheme=scheme))
        order += [(value, name, i) for i, value in enumerate(scores.tolist())][1:]
        ranks[name] = 1
    order.sort(key=lambda each: -each[0])  # stable: a layer's own keep their order

    def spent(counts: Mapping[str, int]) -> int:
        return sum(found.built({}, counts, scheme=scheme).values())

    for name, _ in _fill([each[1:] for each in order], ranks, spent, budget):
        ranks[name] += 1
    built = found.built({}, ranks, scheme=scheme)
    whole = {name for name, layer in found.layers.items() if built[name] == layer.macs()}
    return {name: None if name in whole else rank for name, rank in ranks.items()}


def least(
    found: Costs,
    budget: int,
    *,
    filters: Collection[str],
    factored: bool,
    scheme: int = 1,
) -> int:
    """MACs of one filter in each of ``filters``, and rank 1 everywhere if ``factored``.

    Raises ``ValueError`` where they are more than the budget; it names the dearest layers, and why
    they keep their filters.
    """
    ranks = dict.fromkeys(found.layers, 1) if factored else {}
    spent = found.built(dict.fromkeys(filters, 1), ranks, scheme=scheme)
    total = sum(spent.values())
    if total > budget:
        parts = ["one filter"] * bool(filters) + ["rank 1"] * factored
        smallest = f"{' and '.join(parts)} in every layer that may change costs"
        smallest = smallest if parts else "no filter may leave, and all layers as they are cost"
        dearest = sorted(spent, key=spent.__getitem__, reverse=True)[:NAMED]
        listed = ", ".join(f"{spent[name]:,} in {_place(found, name)}" for name in dearest)
        raise ValueError(
            f"the budget of {budget:,} MACs cannot be met: {smallest} {total:,}, of them {listed}; "
            f"ask for more{_or_ranks(found, budget, filters, scheme) if not factored else ''}"
        )
    return total


def _or_ranks(found: Costs, budget: int, filters: Collection[str], scheme: int) -> str:
    """What can meet a budget that filters alone cannot."""
    ranks = dict.fromkeys(found.layers, 1)
    total = sum(found.built(dict.fromkeys(filters, 1), ranks, scheme=scheme).values())
    return ", or take 'df', which makes two layers of one as well" if total <= budget else ""


def nothing_may_leave(found: Costs) -> str:
    """Why no smaller network can be built."""
    reasons = [f"of {name!r}: {why}" for name, why in found.stays.items() if why]
    return (
        "no filter may leave this network, and no layer may become two"
        + "; the filters stay " * bool(reasons)
        + ", ".join(reasons[:NAMED])
    )


def within_budget(model: nn.Module, budget: int, given: Given) -> None:
    """Raises ``ValueError`` where the network that was built takes more MACs, counted anew."""
    spent = accounting.macs(model, given)
    if spent > budget:
        raise ValueError(
            f"the network that was built takes {spent:,} MACs, more than the {budget:,} of the "
            "budget: its code computes otherwise with fewer filters; ask for less, or leave layers "
            "out"
        )


def _place(found: Costs, name: str) -> str:
    if name == REST:
        return f"{REST} (attention, and layers that cannot change)"
    why = found.stays.get(name)
    return f"{name!r}, whose filters stay: {why}" if why else repr(name)


def _fill(
    steps: list[tuple[str, int]],
    counts: Mapping[str, int],
    spent: Callable[[Mapping[str, int]], int],
    budget: int,
) -> list[tuple[str, int]]:
    """The steps taken, each adding one to its layer's count: a first part, then what still fits."""
    low, high = 0, len(steps)
    while low < high:  # the longest first part that fits; more never costs less
        middle = (low + high + 1) // 2
        if spent(_added(counts, steps[:middle])) <= budget:
            low = middle
        else:
            high = middle - 1
    taken, counts, full = steps[:low], _added(counts, steps[:low]), set()
    for step in steps[low:]:
        if step[0] in full:
            continue
        counts[step[0]] += 1
        if spent(counts) <= budget:
            taken.append(step)
        else:
            counts[step[0]] -= 1
            full.add(step[0])
    return taken


def _added(counts: Mapping[str, int], steps: list[tuple[str, int]]) -> Counter[str]:
    return Counter(counts) + Counter(name for name, _ in steps)
