"""Pruning's C steps in LC: the ℓ0, ℓ1 and ℓ2 costs, each as a constraint and as a penalty.

The C step of the LC algorithm compresses the weights w that the L step has left, by one of

    constraint    min over θ of ‖θ − w‖²               s.t.  C(θ) ≤ κ
    penalty       min over θ of α·C(θ) + μ/2·‖θ − w‖²

With multipliers λ (the augmented Lagrangian) pass w − λ/μ for w. A list of layers is pruned
together (global); a list of one is a layer on its own (local).

Carreira-Perpiñán and Idelbayev, "Learning-Compression" algorithms for neural net pruning (CVPR
2018); the ℓ1 ball: Duchi, Shalev-Shwartz, Singer, Chandra (ICML 2008).
"""

import math
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softshrink

from lib.projections.checks import check_finite, check_floating, penalty, whole, within
from lib.projections.knapsack import project_fixed_bitwidth
from lib.projections.prefix import exponent, strided_sample

CHUNK = 1 << 18  # weights that a CPU computes at a time: a float64 copy, 2 MB, stays in the cache
MARGIN = 3.0  # standard errors of the sample on each side of its threshold
MOST_INSIDE = 1 / 16  # of all weights: more inside the bracket are not worth collecting


def l0_constraint(weights: Sequence[Tensor], *, keep: int) -> list[Tensor]:
    """Keep the weights that are largest in magnitude, and zero the others.

    Solves  min ‖θ − w‖²  s.t.  ‖θ‖₀ ≤ keep.

    Exact: θ = w on the `keep` largest |w|, equal ones by (layer, index). It is the knapsack of
    weights that cost one bit each.

    Parameters
    ----------
    weights : sequence of Tensor
        Floating, of any shapes, on one device.
    keep : int
        κ, nonzero weights of all layers together, 0 or more.

    Returns
    -------
    list of Tensor
        New tensors of the same shapes and dtypes.

    Raises
    ------
    ValueError
        For NaN or infinite weights, other dtypes, and a negative or fractional ``keep``.

    Notes
    -----
    Linear, without a sort.
    """
    keep = whole("keep", keep)
    return project_fixed_bitwidth(weights, [1] * len(weights), budget=keep).weights


@torch.no_grad()
def l1_constraint(weights: Sequence[Tensor], *, radius: float) -> list[Tensor]:
    """Project onto the ℓ1 ball: a soft threshold, as high as the radius demands.

    Solves  min ‖θ − w‖²  s.t.  ‖θ‖₁ ≤ radius.

    Exact: inside the ball θ = w, outside it θ = sign(w)·max(|w| − t, 0) with the one t > 0 where
    ‖θ‖₁ = radius. Sums and t are float64, and each result is rounded to its dtype once; so ‖θ‖₁
    misses the radius by what this rounding makes of it, and by some 1e-16·‖w‖₁.

    Parameters
    ----------
    weights : sequence of Tensor
        Floating, of any shapes, on one device.
    radius : float
        κ, 0 ≤ radius < ∞, in units of the weights.

    Returns
    -------
    list of Tensor
        New tensors of the same shapes and dtypes.

    Raises
    ------
    ValueError
        For NaN or infinite weights, other dtypes, and a radius out of range.

    Notes
    -----
    No sort. On the CPU a sample brackets t, one reading pass adds up what lies above the bracket
    and collects what lies inside, one pass writes. On other devices, or where the tails are so
    heavy that the bracket is wide or misses, each step of Newton's method on t is one reading pass.
    The sample gives its start, so 10⁶ weights and more took 3 to 6 passes where they were normal,
    Laplace, Student t of 2 degrees or tied, 9 at most for Cauchy; fewer weights are their own
    sample, and took up to 13. In theory n are possible, as in Michelot's method.

    Duchi, Shalev-Shwartz, Singer, Chandra (ICML 2008), Figure 1, by a sort.
    """
    within("radius", radius, 0)
    flat = _flat(weights)
    unit = _unit(flat)
    if radius == 0:
        check_finite(flat)
        return [torch.zeros_like(w) for w in weights]
    threshold = _search(flat, unit, radius / unit)
    if threshold == 0:  # inside the ball, or not finite
        check_finite(flat)
        return [w.detach().clone() for w in weights]
    return _soften(weights, threshold * unit)


@torch.no_grad()
def l2_constraint(weights: Sequence[Tensor], *, radius: float) -> list[Tensor]:
    """Project onto the ℓ2 ball: scale all weights alike.

    Solves  min ‖θ − w‖²  s.t.  ‖θ‖₂ ≤ radius.

    Exact: θ = w·min(1, radius/‖w‖₂), computed in float64 and rounded to each dtype once. No square
    over- or underflows.

    Parameters
    ----------
    weights : sequence of Tensor
        Floating, of any shapes, on one device.
    radius : float
        0 ≤ radius < ∞, in units of the weights; √κ for a bound κ on ‖θ‖².

    Returns
    -------
    list of Tensor
        New tensors of the same shapes and dtypes.

    Raises
    ------
    ValueError
        For NaN or infinite weights, other dtypes, and a radius out of range.

    Notes
    -----
    Two passes.
    """
    within("radius", radius, 0)
    flat = _flat(weights)
    unit = _unit(flat)
    norms = [(c.double() / unit).square().sum() for w in flat for c in w.split(_chunk(w))]
    norm = math.sqrt(float(torch.stack(norms).sum())) if norms else 0.0
    if not math.isfinite(norm):
        check_finite(flat)
    if norm <= radius / unit:
        return [w.detach().clone() for w in weights]
    # θ = w·radius/‖w‖₂
    return _rounded(weights, lambda w: w.div_(unit).mul_(radius / norm))


def l0_penalty(weights: Sequence[Tensor], *, alpha: float, mu: float) -> list[Tensor]:
    """Hard threshold: a weight stays if it is worth more than α.

    Solves  min α·‖θ‖₀ + μ/2·‖θ − w‖².

    Exact: θ = w where |w| > √(2α/μ), else 0. At equality both are optimal, and the weight goes.

    Parameters
    ----------
    weights : sequence of Tensor
        Floating, of any shapes, on one device.
    alpha : float
        0 ≤ α < ∞, what a nonzero weight costs.
    mu : float
        0 < μ < ∞.

    Returns
    -------
    list of Tensor
        New tensors of the same shapes and dtypes.

    Raises
    ------
    ValueError
        For NaN or infinite weights, other dtypes, and numbers out of range.

    Notes
    -----
    Two passes.
    """
    alpha, mu = penalty(alpha, mu)
    check_finite(_flat(weights))
    # √(2α/μ)
    threshold = math.sqrt(2 * (alpha / mu))
    return _rounded(weights, lambda w: torch.hardshrink(w, threshold, out=w))


def l1_penalty(weights: Sequence[Tensor], *, alpha: float, mu: float) -> list[Tensor]:
    """Soft threshold: every weight shrinks by α/μ, and those no larger go.

    Solves  min α·‖θ‖₁ + μ/2·‖θ − w‖².

    Exact: θ = sign(w)·max(|w| − α/μ, 0), computed in float64 and rounded to each dtype once.

    Parameters
    ----------
    weights : sequence of Tensor
        Floating, of any shapes, on one device.
    alpha : float
        0 ≤ α < ∞, the weight of the cost.
    mu : float
        0 < μ < ∞.

    Returns
    -------
    list of Tensor
        New tensors of the same shapes and dtypes.

    Raises
    ------
    ValueError
        For NaN or infinite weights, other dtypes, and numbers out of range.

    Notes
    -----
    Two passes.
    """
    alpha, mu = penalty(alpha, mu)
    check_finite(_flat(weights))
    return _soften(weights, alpha / mu)


def l2_penalty(weights: Sequence[Tensor], *, alpha: float, mu: float) -> list[Tensor]:
    """Weight decay's C step: every weight shrinks by the same factor.

    Solves  min α·‖θ‖² + μ/2·‖θ − w‖²  (the norm is squared).

    Exact: θ = w·μ/(μ + 2α), computed in float64 and rounded to each dtype once.

    Parameters
    ----------
    weights : sequence of Tensor
        Floating, of any shapes, on one device.
    alpha : float
        0 ≤ α < ∞, the weight of the cost.
    mu : float
        0 < μ < ∞.

    Returns
    -------
    list of Tensor
        New tensors of the same shapes and dtypes.

    Raises
    ------
    ValueError
        For NaN or infinite weights, other dtypes, and numbers out of range.

    Notes
    -----
    Two passes.
    """
    alpha, mu = penalty(alpha, mu)
    check_finite(_flat(weights))
    # μ/(μ + 2α)
    factor = 1 / (1 + 2 * (alpha / mu))
    return _rounded(weights, lambda w: w.mul_(factor))


def _flat(weights: Sequence[Tensor]) -> list[Tensor]:
    check_floating(weights)
    return [w.detach().reshape(-1) for w in weights]


def _chunk(w: Tensor) -> int:
    """How many weights are computed at a time: of a GPU, where each launch costs, all of them."""
    return max(1, min(CHUNK, w.numel()) if w.device.type == "cpu" else w.numel())


def _unit(flat: list[Tensor]) -> float:
    """A power of two to divide by, lest sums or squares of float64 weights leave its range."""
    e = exponent(flat)
    return 1.0 if e is None else math.ldexp(1.0, max(-1000, e - 1))  # the largest: in [1, 2)


def _search(flat: list[Tensor], unit: float, radius: float) -> float:
    """What ``_threshold`` finds for all weights, with help from a sample of them."""
    drawn, numbers = strided_sample(flat)
    drawn = [d.contiguous() for d in drawn]
    start = _threshold(drawn, numbers, unit, radius, start=0.0)
    if all(n <= 1 for n in numbers):  # every weight was drawn
        return start
    if all(w.device.type == "cpu" for w in flat):
        # The root's standard error is that of f over the slope of f: where the excess over the root
        # is exponentially distributed, √(2/#) of its mean, # the number of drawn weights above.
        total, number = _above(drawn, numbers, unit, start)
        number = max(1.0, number)
        error = math.sqrt(2 * max(numbers) / number) * max(0.0, total / number - start)
        low, high = max(0.0, start - MARGIN * error), start + MARGIN * error
        between = [_above(drawn, numbers, unit, t)[1] for t in (low, high)]
        if between[0] - between[1] <= MOST_INSIDE * sum(map(len, flat)):
            *beyond, inside = _split(flat, unit, low, high)
            # Steps from low and high are those for all weights. So if the root lies outside, this
            # one is to its left, and the steps for all weights go on from there.
            start = _threshold([inside], [1.0], 1.0, radius, start=low, beyond=beyond)
            if low <= start <= high:
                return start
    return _threshold(flat, [1.0] * len(flat), unit, radius, start=start)


def _split(flat: list[Tensor], unit: float, low: float, high: float) -> tuple[float, int, Tensor]:
    """Σ |w|/unit over the weights above ``high``, how many they are, and |w|/unit of the next.

    The next are those above ``low``. They are found by NumPy, whose comparisons are five times as
    fast as torch's, and its boolean index six times (NumPy 2, torch 2.11, 1 thread).
    """
    sums, number, inside = [], 0, []
    for w in flat:
        buffers = torch.empty(2, min(CHUNK, len(w)), dtype=torch.float64)
        for chunk in w.split(CHUNK):
            size, large = buffers[:, : len(chunk)]
            _size(chunk, unit, out=size)
            sums.append(torch.hardshrink(size, high, out=large).sum())
            sizes = size.numpy()
            above = sizes > high
            number += int(np.count_nonzero(above))
            inside.append(sizes[above != (sizes > low)])
    return float(torch.stack(sums).sum()), number, torch.from_numpy(np.concatenate(inside))


def _threshold(
    flat: list[Tensor],
    numbers: list[float],
    unit: float,
    radius: float,
    *,
    start: float,
    beyond: Sequence[float] = (0.0, 0.0),
) -> float:
    """The root t of f(t) = Σ max(|w|/unit − t, 0) − radius, if it has one above 0; else 0.

    0, too, if a weight is not finite.

    A weight of layer i counts numbers[i] times; ``beyond`` are Σ |w|/unit and the number of weights
    that are not in ``flat`` and count at every t. f is convex, falling and piecewise linear, so a
    step from any start leads to the left of the root; from there steps lead only to the right, and
    the last one, between whose ends no |w| lies, to the root itself.
    """

    def step(t: float) -> float:
        total, number = _above(flat, numbers, unit, t)
        total, number = total + beyond[0], number + beyond[1]
        if number == 0 or not math.isfinite(total):
            return 0.0
        # t − f(t)/f′(t) = (Σ |w| − radius)/#, over the weights with |w| > t
        return max(0.0, (total - radius) / number)

    t, following = start, step(start)
    while t != following:
        t, following = following, max(following, step(following))  # rounding may lead back an ulp
    return t


def _above(
    flat: list[Tensor], numbers: list[float], unit: float, threshold: float
) -> tuple[float, float]:
    """Σ |w|/unit over the weights with |w|/unit > threshold, and how many they are."""
    sums = []  # of the chunks, (2,) each: the device is waited for once
    for w, number in zip(flat, numbers, strict=True):
        buffer = torch.empty(_chunk(w), dtype=torch.float64, device=w.device)
        for chunk in w.split(_chunk(w)):
            size = _size(chunk, unit, out=buffer[: len(chunk)])
            large = torch.hardshrink(size, threshold, out=size)
            # signs are added up, because count_nonzero takes ten times as long where a branch
            # for every other value is mistaken (torch 2.11, 1 thread)
            sums.append(torch.stack([large.sum(), large.sign_().sum()]) * number)
    total, number = torch.stack(sums).sum(0).tolist() if sums else (0.0, 0.0)
    return total, number


def _size(chunk: Tensor, unit: float, *, out: Tensor) -> Tensor:
    """|w|/unit."""
    out.copy_(chunk).abs_()
    return out if unit == 1 else out.div_(unit)


def _soften(weights: Sequence[Tensor], threshold: float) -> list[Tensor]:
    threshold = min(threshold, sys.float_info.max)  # softshrink refuses an infinite one
    # θ = sign(w)·max(|w| − t, 0)
    return _rounded(weights, lambda w: softshrink(w, threshold, out=w))  # type: ignore[call-arg]


@torch.no_grad()
def _rounded(weights: Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """An elementwise function of every layer, computed on float64 copies that it may overwrite."""
    results = []
    for w in weights:
        flat = w.detach().reshape(-1)
        result = torch.empty_like(flat)
        buffer = torch.empty(_chunk(w), dtype=torch.float64, device=w.device)
        for chunk, out in zip(flat.split(_chunk(w)), result.split(_chunk(w)), strict=True):
            out.copy_(function(buffer[: len(chunk)].copy_(chunk)))
        results.append(result.view(w.shape))
    return results
