"""The multiple-choice knapsack, which with the sparsity fixed gives each layer its bitwidth.

It is the second part of ADMM's projection of V (Yang, Gui, Zhu, Liu, CVPR 2020, Section 3.4); the
first finds the errors (``codebook``). Its counterpart, which weights stay, is in ``knapsack``.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib.projections.checks import integers, shaped, whole


class Choice(NamedTuple):
    """What ``choose_bitwidths`` returns."""

    bitwidths: Tensor  # (layers,) int64
    error: float  # Σ of the chosen errors
    bits: int  # Σ bᵢ·nnzᵢ
    lower_bound: float  # no choice within the budget has a smaller error


class Option(NamedTuple):
    """One thing that a layer may be: a bitwidth here, a rank in ``lowrank``."""

    cost: int
    error: float
    place: Any  # position among the bitwidths; or a rank, None for a layer left whole


class _Step(NamedTuple):
    """One increment along a layer's convex hull."""

    density: Fraction  # error saved per unit of cost
    layer: int
    cost: int
    option: Option  # where it leads


def choose_bitwidths(
    errors: Tensor,
    nonzeros: Sequence[int] | Tensor,
    *,
    budget: int,
    bitwidths: Sequence[int] = range(1, 9),
) -> Choice:
    """Give each layer the bitwidth that leaves the least quantization error within the budget.

    Solves  min Σᵢ E(i, bᵢ)  s.t.  Σᵢ bᵢ·nnzᵢ ≤ budget, one bᵢ a layer: a multiple-choice knapsack.

    Greedy: every layer starts at its cheapest choice, and the increments of all layers are taken by
    error saved per bit until one does not fit, which is the paper's rule. Its premise, that a
    layer's increments come sorted, holds on convex curves only, so choices above the lower convex
    hull of (bits, error) are left out of this part. What the budget has left is then spent one
    upgrade after another, hull or not, on the largest error saved per bit among those that fit.
    The result is never worse than the paper's, and ``error - lower_bound`` bounds what is lost.

    Parameters
    ----------
    errors : Tensor
        (layers, widths) squared errors; +inf marks a choice that is not offered.
    nonzeros : sequence of int or Tensor
        (layers,) weights that pay; a layer with none costs nothing, and gets the smallest error,
        the narrower bitwidth where equal.
    budget : int
        Bits for all layers together, 0 or more.
    bitwidths : sequence of int
        (widths,) the candidates in bits, distinct and positive.

    Returns
    -------
    Choice
        The bitwidths, their error and bits, and a bound on the error of any other choice.

    Raises
    ------
    ValueError
        For a budget below the cheapest choices (it says how much they need), for NaN or -inf
        errors, a layer without any choice, and shapes that do not match.

    Notes
    -----
    O(n log n) for n = layers·widths.

    Yang, Gui, Zhu, Liu (CVPR 2020), Section 3.4, Definition 1, Proposition 2; Sinha and Zoltners
    (1979) for the dominated choices and the bound.
    """
    widths = integers(bitwidths, "bitwidths", low=1)
    if not widths or len({*widths}) < len(widths):
        raise ValueError(f"bitwidths are {widths}; give one or more, each once")
    counts = integers(nonzeros, "nonzeros")
    budget = whole("the budget in bits", budget)
    groups = _groups(_checked_errors(errors, len(counts), len(widths)), counts, widths)
    cheapest = sum(group[0].cost for group in groups)
    if cheapest > budget:
        raise ValueError(
            f"the budget is {budget} bits, but the cheapest choice of every layer needs "
            f"{cheapest}; raise the budget, prune more or offer narrower bitwidths"
        )
    choice, bound = greedy(groups, budget)
    error = math.fsum(o.error for o in choice)
    return Choice(
        bitwidths=torch.tensor([widths[o.place] for o in choice], dtype=torch.int64),
        error=error,
        bits=sum(o.cost for o in choice),
        lower_bound=min(error, bound),
    )


def _groups(errors: list[list[float]], counts: list[int], widths: list[int]) -> list[list[Option]]:
    """Per layer the choices worth considering."""
    groups = []
    for i, (row, n) in enumerate(zip(errors, counts, strict=True)):
        options = [Option(b * n, e, j) for j, (b, e) in enumerate(zip(widths, row, strict=True))]
        options = sorted(
            (o for o in options if o.error < math.inf),
            key=lambda o: (o.cost, o.error, widths[o.place]),
        )
        if not options:
            raise ValueError(f"layer {i} has no finite error; offer it at least one bitwidth")
        groups.append(undominated(options))
    return groups


def undominated(options: list[Option]) -> list[Option]:
    """Of options by rising cost those worth considering: a higher cost only for less error."""
    group: list[Option] = []
    for o in options:
        if not group or o.error < group[-1].error:
            group.append(o)
    return group


def _steps(groups: list[list[Option]]) -> list[_Step]:
    """The increments along all hulls by error saved per bit; those of a layer stay in order."""
    steps = []
    for layer, group in enumerate(groups):
        hull: list[Option] = []
        for o in group:
            # fractions, because a rounded slope could order two increments of a layer wrongly
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) < _slope(hull[-1], o):
                hull.pop()
            hull.append(o)
        steps += [_Step(_slope(a, b), layer, b.cost - a.cost, b) for a, b in pairwise(hull)]
    return sorted(steps, key=lambda s: (-s.density, s.layer))


def _slope(a: Option, b: Option) -> Fraction:
    # (ρⱼ − ρⱼ₋₁)/(ωⱼ − ωⱼ₋₁), with ρ = −E
    return (Fraction(a.error) - Fraction(b.error)) / (b.cost - a.cost)


def greedy(groups: list[list[Option]], budget: int) -> tuple[list[Option], float]:
    """The choice, and the optimum of the LP relaxation; both are the optimum if all fits."""
    choice = [group[0] for group in groups]
    left = budget - sum(o.cost for o in choice)
    for step in _steps(groups):
        if step.cost > left:
            break
        choice[step.layer] = step.option
        left -= step.cost
    else:
        return choice, math.fsum(o.error for o in choice)
    # LP relaxation: the fraction of this increment that the bits left still pay for
    bound = sum((Fraction(o.error) for o in choice), Fraction(0)) - step.density * left
    while True:
        upgrades = [
            (_slope(choice[i], o), -i, o)
            for i, group in enumerate(groups)
            for o in group
            if 0 < o.cost - choice[i].cost <= left
        ]
        if not upgrades:
            break
        _, i, option = max(upgrades)
        left -= option.cost - choice[-i].cost
        choice[-i] = option
    return choice, _down(bound)


def _down(value: Fraction) -> float:
    """The largest float64 not above a fraction, so that a bound stays one."""
    rounded = float(value)
    return rounded if Fraction(rounded) <= value else math.nextafter(rounded, -math.inf)


def _checked_errors(errors: Tensor, layers: int, widths: int) -> list[list[float]]:
    errors = torch.as_tensor(errors, dtype=torch.float64).detach()
    each = "one for each layer and bitwidth"
    shaped("errors", errors, (layers, widths), torch.float64, remedy=each)
    bad = errors.isnan() | errors.isneginf()
    if bad.any():
        i, j = bad.nonzero()[0].tolist()
        raise ValueError(
            f"errors[{i}, {j}] is {float(errors[i, j])}; an error is finite, or +inf for a choice "
            "that is not offered"
        )
    return errors.tolist()
