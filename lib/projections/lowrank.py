"""Low rank's C steps: the best matrix of a given rank, and the rank that each layer gets.

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
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.projections.checks import check_finite, check_floating, integers
from lib.projections.multiple_choice import Option, greedy, undominated
from lib.projections.sparsity import checked_penalty


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
    matrix : (m, n), floating.
    rank : an integer from 0 to min(m, n).

    Returns ``Factors`` of the matrix's dtype, on its device. O(m·n·min(m, n)).

    Raises ``ValueError`` for NaN or infinite values, other shapes and dtypes, and a rank out of
    range.
    """
    (matrix,) = _checked([matrix])
    (rank,) = integers([rank], "rank")
    if not 0 <= rank <= min(matrix.shape):
        raise ValueError(
            f"rank is {rank}, which is not in 0..{min(matrix.shape)}, all that a matrix of shape "
            f"{tuple(matrix.shape)} can have"
        )
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
    matrices : (mᵢ, nᵢ) floating, of any number.
    prices : what one rank costs each layer (mᵢ + nᵢ parameters; or multiplications), integers ≥ 1.
    whole : what each layer costs unfactored (mᵢ·nᵢ parameters), integers ≥ 1. None: every layer
        is factored.
    alpha : 0 ≤ α < ∞, the weight of the cost.
    mu : 0 < μ < ∞.

    Returns ``Ranks``, from 0 on: a layer not worth one rank gets none. O(m·n·min(m, n)) a layer.

    Raises ``ValueError`` for NaN or infinite values, other shapes and dtypes, numbers out of range,
    and lists that do not match.

    Idelbayev and Carreira-Perpiñán (CVPR 2020), the C step of their algorithm.
    """
    alpha, mu = checked_penalty(alpha, mu)
    choice = [
        # α·C(r) + μ/2·Σ_{i>r} σᵢ²
        min(options, key=lambda o: alpha * o.cost + mu / 2 * o.error)
        for options in _options(matrices, prices, whole)
    ]
    # the minimum of a Lagrangian: no other choice of this cost has less error
    return _ranks(choice, whole, math.fsum(o.error for o in choice))


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
    matrices, prices, whole : as in ``choose_ranks``.
    budget : in units of the prices, a non-negative integer.
    least : 0, or 1: every layer gets a rank, and lets something through.

    Returns ``Ranks``. O(m·n·min(m, n)) a layer, and O(k log k) for k ranks in all.

    Raises ``ValueError`` as ``choose_ranks``, and for a budget that is negative, fractional or less
    than ``least`` ranks cost.
    """
    (budget,) = integers([budget], "the budget")
    if budget < 0:
        raise ValueError(f"the budget is {budget}; it must be 0 or more")
    if least not in (0, 1):
        raise ValueError(f"least is {least}; it must be 0 or 1")
    choice, bound, _ = greedy(_options(matrices, prices, whole, least), budget)
    found = _ranks(choice, whole, bound)
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
    prices = _checked_prices(prices, "prices", len(matrices))
    limits = [None] * len(matrices)
    if whole is not None:
        limits = _checked_prices(whole, "whole", len(matrices))
    squares = [torch.linalg.svdvals(matrix.double()).square() for matrix in matrices]
    # Σ_{i>r} σᵢ² for r = 0 … min(m, n), smallest first
    sums = [nn.functional.pad(s.flip(0).cumsum(0), (1, 0)).flip(0) for s in squares]
    listed = iter(torch.cat(sums).tolist() if sums else ())  # one copy from a GPU for all layers
    groups = []
    for s, price, limit in zip(sums, prices, limits, strict=True):
        tails = list(islice(listed, len(s)))
        options = [Option(price * r, error, r) for r, error in enumerate(tails)][least:]
        if limit is not None:  # ranks that cost as much are no use
            options = [o for o in options if o.cost < limit] + [Option(limit, 0.0, len(tails))]
        groups.append(undominated(options))
    return groups


def _ranks(choice: list[Option], whole: Sequence[int] | None, bound: float) -> Ranks:
    limits = [None] * len(choice) if whole is None else integers(whole, "whole")
    error = math.fsum(o.error for o in choice)
    return Ranks(
        # every rank of a layer costs less than the whole of it
        ranks=[None if o.cost == n else o.place for o, n in zip(choice, limits, strict=True)],
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


def _checked_prices(prices: Sequence[int], name: str, layers: int) -> list[int]:
    prices = integers(prices, name)
    if len(prices) != layers:
        raise ValueError(f"{name} has {len(prices)} entries for {layers} layers; give one for each")
    for i, p in enumerate(prices):
        if p < 1:
            raise ValueError(f"{name}[{i}] is {p}; it must be 1 or more")
    return prices
