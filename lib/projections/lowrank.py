"""Low rank's C steps in LC: the best matrix of a given rank, and the rank that each layer gets.

With C(Θ) = price·rank(Θ) a layer's C step has the singular values σ₁ ≥ σ₂ ≥ … of W for its data:
the best Θ of rank r leaves ‖W − Θ‖² = Σ_{i>r} σᵢ² (Eckart and Young, 1936). `choose_ranks` and
`ranks_for_budget` pick every layer's r, `low_rank` makes its factors.

Matrices only: which matrix a convolution is, is the caller's convention. The usual one is
weight.flatten(1), C_out × C_in·k²; then `right` is a k × k convolution to r channels, and `left` a
1 × 1 convolution from them.

Idelbayev and Carreira-Perpiñán, "Low-rank compression of neural nets: learning the rank of each
layer" (CVPR 2020).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.projections.checks import check_finite, check_floating, integers, penalty
from lib.projections.checks import whole as whole_number
from lib.projections.multiple_choice import Option, greedy, undominated
from lib.projections.transfer import fetched


class Factors(NamedTuple):
    """What ``low_rank`` returns: Θ = left · right."""

    left: Tensor  # (m, rank)
    right: Tensor  # (rank, n)

    def product(self) -> Tensor:
        """(m, n), Θ, added up in float64."""
        return (self.left.double() @ self.right.double()).to(self.left.dtype)


class Ranks(NamedTuple):
    """What ``choose_ranks`` and ``ranks_for_budget`` return."""

    ranks: list[int | None]  # per layer; None for one that stays whole
    cost: int  # Σ of their prices
    error: float  # Σ ‖W − Θ‖²
    lower_bound: float  # no choice within the budget (of this cost, if none) has a smaller error


@torch.no_grad()
def low_rank(matrix: Tensor, *, rank: int) -> Factors:
    """Find the nearest matrix of a rank, as two factors.

    Solves  min ‖Θ − W‖  s.t.  rank(Θ) ≤ rank, in the Frobenius norm.

    Exact: Θ = U_r·Σ_r·V_rᵀ of the singular value decomposition, in float64. The factors U_r·Σ_r^½
    and Σ_r^½·V_rᵀ are of equal norm, so that one learning rate suits both layers. If σ_r = σ_{r+1},
    Θ is one of several nearest.

    Parameters
    ----------
    matrix : Tensor
        (m, n), floating.
    rank : int
        From 0 to min(m, n).

    Returns
    -------
    Factors
        Of the matrix's dtype, on its device.

    Raises
    ------
    ValueError
        For NaN or infinite values, other shapes and dtypes, and a rank out of range.

    Notes
    -----
    O(m·n·min(m, n)).

    Eckart and Young (1936).
    """
    (matrix,) = _checked([matrix])
    most = f"a matrix of shape {tuple(matrix.shape)} has no more"
    rank = whole_number("rank", rank, 0, min(matrix.shape), remedy=most)
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    root = s[:rank].sqrt()
    # Θ = (U_r·Σ_r^½)·(Σ_r^½·V_rᵀ)
    left, right = u[:, :rank] * root, root[:, None] * vh[:rank]
    return Factors(left.to(matrix.dtype), right.to(matrix.dtype))


def choose_ranks(
    matrices: Sequence[Tensor],
    *,
    prices: Sequence[int],
    whole: Sequence[int] | None = None,
    alpha: float,
    mu: float,
) -> Ranks:
    """Give each layer the rank that is worth its price.

    Solves, for each layer,  min over r of α·price·r + μ/2·Σ_{i>r} σᵢ²;  a layer may also stay as it
    is, for α·whole and no error.

    Exact: all ranks are tried. Of equal ones the cheaper is taken.

    Parameters
    ----------
    matrices : sequence of Tensor
        (mᵢ, nᵢ) floating, of any number.
    prices : sequence of int
        What one rank costs each layer (mᵢ + nᵢ parameters; or multiplications), 1 or more.
    whole : sequence of int, optional
        What each layer costs unfactored (mᵢ·nᵢ parameters), 1 or more. None: every layer is
        factored.
    alpha : float
        0 ≤ α < ∞, the weight of the cost.
    mu : float
        0 < μ < ∞.

    Returns
    -------
    Ranks
        From 0 on: a layer not worth one rank gets none.

    Raises
    ------
    ValueError
        For NaN or infinite values, other shapes and dtypes, numbers out of range, and lists that do
        not match.

    Notes
    -----
    O(m·n·min(m, n)) per layer.

    Idelbayev and Carreira-Perpiñán (CVPR 2020), the C step of their algorithm.
    """
    alpha, mu = penalty(alpha, mu)
    choice = [
        # α·C(r) + μ/2·Σ_{i>r} σᵢ²
        min(options, key=lambda o: alpha * o.cost + mu / 2 * o.error)
        for options in _options(matrices, prices, whole)
    ]
    # the minimum of a Lagrangian: no other choice of this cost has less error
    return _ranks(choice, math.fsum(o.error for o in choice))


def ranks_for_budget(
    matrices: Sequence[Tensor],
    *,
    prices: Sequence[int],
    whole: Sequence[int] | None = None,
    budget: int,
    least: int = 0,
) -> Ranks:
    """Give each layer the rank that leaves the least error within a budget.

    Solves  min Σ_layers Σ_{i>r} σᵢ²  s.t.  Σ_layers price·r ≤ budget;  a layer may also stay as it
    is, for `whole` and no error.

    Greedy, of the multiple-choice knapsack (``multiple_choice.choose_bitwidths``): ranks are bought
    by σ²/price, and whole layers where the lower convex hull of (cost, error) says so, until one
    step does not fit; what is left buys smaller steps. Up to that step it is `choose_ranks` for the
    best α, thus the optimum of its cost. ``error - lower_bound`` bounds what is lost, and is less
    than what that one step would have gained.

    Parameters
    ----------
    matrices, prices, whole
        As in ``choose_ranks``.
    budget : int
        In units of the prices, 0 or more.
    least : int
        0, or 1: every layer gets a rank, and lets something through.

    Returns
    -------
    Ranks

    Raises
    ------
    ValueError
        As ``choose_ranks``, and for a budget that is negative, fractional or less than ``least``
        ranks cost.

    Notes
    -----
    O(m·n·min(m, n)) per layer, and O(k log k) for k ranks in all.
    """
    budget = whole_number("the budget", budget)
    least = whole_number("least", least, 0, 1)
    choice, bound = greedy(_options(matrices, prices, whole, least), budget)
    found = _ranks(choice, bound)
    if found.cost > budget:
        raise ValueError(
            f"the budget is {budget}; a rank of 1 in every layer costs {found.cost}: ask for more"
        )
    return found


@torch.no_grad()
def _options(
    matrices: Sequence[Tensor],
    prices: Sequence[int],
    whole: Sequence[int] | None,
    least: int = 0,
) -> list[list[Option]]:
    """Per layer the ranks worth considering, cheapest first; then, last, the whole layer."""
    matrices = _checked(matrices)
    prices = integers(prices, "prices", layers=len(matrices), low=1)
    limits: Sequence[int | None] = [None] * len(matrices)
    if whole is not None:
        limits = integers(whole, "whole", layers=len(matrices), low=1)
    squares = [torch.linalg.svdvals(matrix.double()).square() for matrix in matrices]
    # Σ_{i>r} σᵢ² for r = 0 … min(m, n), smallest first
    sums = [nn.functional.pad(s.flip(0).cumsum(0), (1, 0)).flip(0) for s in squares]
    groups = []
    for tails, price, limit in zip(fetched(sums), prices, limits, strict=True):
        options = [Option(price * r, error, r) for r, error in enumerate(tails.tolist())][least:]
        if limit is not None:  # ranks that cost as much are no use
            options = [o for o in options if o.cost < limit] + [Option(limit, 0.0, None)]
        groups.append(undominated(options))
    return groups


def _ranks(choice: list[Option], bound: float) -> Ranks:
    error = math.fsum(o.error for o in choice)
    return Ranks(
        ranks=[o.place for o in choice],
        cost=sum(o.cost for o in choice),
        error=error,
        lower_bound=min(error, bound),
    )


def _checked(matrices: Sequence[Tensor]) -> list[Tensor]:
    check_floating(matrices)
    for i, m in enumerate(matrices):
        if m.ndim != 2:
            raise ValueError(
                f"layer {i} has shape {tuple(m.shape)}; a rank needs a matrix: flatten(1) makes "
                "C_out × C_in·k² of a convolution"
            )
    check_finite(matrices)
    return [m.detach() for m in matrices]
