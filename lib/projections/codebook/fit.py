"""Codebooks: the best 2ᵇ values for each layer, for every bitwidth b at once.

The projection of V in ADMM (Yang et al., CVPR 2020, Section 3.4, problem 10) needs, for every layer
and every b in ℬ = {1, …, 8}, the quantization error

    ℰ_b(V̄) = min over V with b(V) = b of ‖V − V̄‖²

which is k-means in one dimension with K = 2ᵇ centres. In the joint mode `b` counts unique
*nonzero* values, so zero is one more centre, pinned and free. `codebook` is the projection for any
one K, the C step of LC quantization.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.projections.checks import check_floating, integers
from lib.projections.codebook import histogram, kmeans
from lib.projections.codebook.kmeans import EXACT_DISTINCT, Fit, Points
from lib.projections.transfer import fetched, sent


class Codebooks(NamedTuple):
    """What `fit_codebooks` returns: one codebook for every layer and width."""

    errors: Tensor  # (layers, widths) float64 on the CPU; +inf where a width was not asked for
    centres: list[list[Tensor]]  # [layer][width] float32, ascending, at most 2ᵇ of them


def fit_codebooks(
    values: Sequence[Tensor],
    *,
    bitwidths: Sequence[int] = range(1, 9),
    free_zero: bool,
    widest: Sequence[int] | None = None,
) -> Codebooks:
    """Find the codebook of least squared error for every layer and bitwidth.

    With K = 2ᵇ centres c₁ … c_K, for each layer v and each b:

        free_zero      min_c Σᵢ min(vᵢ², min_k (vᵢ − c_k)²)     K nonzero centres, and zero beside
        otherwise      min_c Σᵢ min_k (vᵢ − c_k)²               any centre may be zero

    Exact (to rounding: 1e-14·Σv², and centres rounded to float32) for a layer of at most 4,096
    distinct values. Above that, the optimum over intervals of at most 4,224 uneven bins, then
    Lloyd's iterations on all values: no bound is proven, but wherever it was measured (normal,
    Laplace, Student t of 1 to 2 degrees, mixtures, clumps; 4,097 to 100,000 values) the error was
    within 0.1 % of the optimum for every width. Errors are measured on all values with the float32
    centres that are returned, not estimated (relative error below 2e-7), and never grow with the
    width. On one machine the same values always give the same codebooks.

    Parameters
    ----------
    values : sequence of Tensor
        One per layer, any shape, floating, all on one device. Half precision is computed in
        float32. *All* values of the layer take part, those that are pruned too.
    bitwidths : sequence of int
        b, strictly increasing, each in 1 … 8 bits.
    free_zero : bool
        Zero is one more centre, that costs no code (joint pruning and quantization).
    widest : sequence of int, optional
        For each layer the largest b wanted, 0 for none; wider ones are left out (error +inf, no
        centres), which is much cheaper. None: all of `bitwidths`.

    Returns
    -------
    Codebooks
        Errors (layers, widths) float64 in squared units of the values, and sorted float32 centres
        on the values' device, without zero when `free_zero`, without duplicates and without centres
        that no value is nearest to.

    Raises
    ------
    ValueError
        For a bitwidth outside 1 … 8 or out of order; `widest` of another length or outside 0 … 8;
        values that are not floating; NaN or infinite values (names layer and count).

    Notes
    -----
    Cost: sorting, O(n log n), and a few passes over n; then O(2ᵇ·m log m) on m ≤ 4,226 points per
    layer, by the CPU's compiled loops, or by Triton on a GPU (`intervals.programme` says which).
    About 40 bytes per weight for the largest layer, 12 for the others. From a GPU summaries of all
    layers come over in one transfer, codebooks in one, and a Triton programme's cuts in another;
    a layer within 1e-8·Σv² of a codebook takes one more, because its errors are taken again.
    """
    bitwidths = integers(bitwidths, "bitwidths", low=1, high=8, remedy="leave it out")
    if any(a >= b for a, b in pairwise(bitwidths)):
        raise ValueError(f"bitwidths {bitwidths} must increase strictly; sort them, each once")
    none, layers = "use 0 for no width", len(values)
    widest = [8] * layers if widest is None else widest
    widest = integers(widest, "widest", layers=layers, high=8, remedy=none)
    wanted = [[2**b for b in bitwidths if b <= most] for most in widest]
    fitted, _ = _fits(values, wanted, free_zero=free_zero)
    return _gathered([_never_worse(fits) for fits in fitted], values, widths=len(bitwidths))


def codebook(
    weights: Sequence[Tensor], *, values: int | Sequence[int], free_zero: bool
) -> list[Tensor]:
    """Project every layer onto the tensors of few distinct values: quantization's C step.

    Solves, for each layer w with its number K of values,

        free_zero      min ‖θ − w‖²  s.t.  θ has at most K distinct nonzero values
        otherwise      min ‖θ − w‖²  s.t.  θ has at most K distinct values

    With multipliers λ (the augmented Lagrangian) pass w − λ/μ for w.

    A layer that has no more values than it may is returned as it is. Else every weight goes to the
    nearest centre, found as in `fit_codebooks` (for K = 2ᵇ the same): exact (to rounding:
    1e-14·Σw², and centres rounded to float32, or to half precision) for at most 4,096 distinct
    weights; above that no bound is proven, but wherever it was measured the error was within 0.1 %
    of the optimum.

    Parameters
    ----------
    weights : sequence of Tensor
        One per layer, any shape, floating, all on one device.
    values : int or sequence of int
        K, one for all layers or one per layer, each in 1 … 256.
    free_zero : bool
        Zero is one more value, that does not count (joint pruning and quantization).

    Returns
    -------
    list of Tensor
        New tensors of the same shapes and dtypes.

    Raises
    ------
    ValueError
        For a number of values outside 1 … 256 or not an integer, or not one per layer; weights that
        are not floating; NaN, infinite or beyond float32 (names layer and count).

    Notes
    -----
    Cost: sorting, O(n log n), and a few passes; O(K·m log m) on m ≤ 4,226 points per layer. Where,
    memory and transfers as in `fit_codebooks`.

    Carreira-Perpiñán and Idelbayev, Model compression as constrained optimization, with application
    to neural nets, Part II: quantization (arXiv:1707.04319), the adaptive codebook.
    """
    keep, layers = "to keep a layer as it is, leave it out", len(weights)
    each: Any = [values] * layers if np.ndim(values) == 0 else values
    numbers = integers(each, "values", layers=layers, low=1, high=256, remedy=keep)
    fitted, points = _fits(weights, [[k] for k in numbers], free_zero=free_zero)
    centres = _gathered(fitted, weights, widths=1).centres
    projected = []
    for w, k, (levels,), s in zip(weights, numbers, centres, points, strict=True):
        if s.value is not None and len(s.number) - (s.zero if free_zero else 0) <= k:
            projected.append(w.detach().clone())
        else:  # levels rounded first, so that half precision gets the nearest of what it can hold
            projected.append(assign(w, levels.to(w.dtype), free_zero=free_zero))
    return projected


def assign(values: Tensor, centres: Tensor, *, free_zero: bool) -> Tensor:
    """Replace every value by the nearest of its codebook: argmin over q of |v − q|.

    q ranges over `centres`, and over 0 too when `free_zero`. Exact: distances are compared in
    float64. A value halfway between two goes to the one of smaller magnitude; zero halfway between
    −c and c goes to c.

    Parameters
    ----------
    values : Tensor
        Any shape, floating, finite (NaN is not looked for: that would wait for the device).
    centres : Tensor
        (K,) floating, in any order, on the values' device.
    free_zero : bool
        Zero is one of the codebook's values.

    Returns
    -------
    Tensor
        Of the values' shape and dtype; in half precision the centres are rounded to it.

    Raises
    ------
    ValueError
        Where there are values, but none to choose from.

    Notes
    -----
    Cost: O(n log K), no host round trip.
    """
    levels = centres.detach().flatten().double()
    if free_zero:
        levels = torch.cat([levels, levels.new_zeros(1)])
    if levels.numel() == 0:
        if values.numel() == 0:
            return values.detach().clone()
        raise ValueError(
            f"a codebook of 0 centres for {values.numel()} values; at least 1 is needed: "
            "fit one, or pass free_zero=True"
        )
    levels = levels.sort().values  # (levels,)
    middles = (levels[1:] + levels[:-1]) / 2  # (levels - 1,)
    # bucketize sends a tie down, towards smaller magnitude only on the positive side.
    below = torch.nextafter(middles, torch.full_like(middles, -torch.inf))
    middles = torch.where(middles > 0, middles, below)
    flat = _flat(values)
    edges = histogram.beyond(middles, flat.dtype)
    nearest = torch.bucketize(flat, edges, right=True, out_int32=True)
    return levels.to(values.dtype).index_select(0, nearest).view(values.shape)


def _flat(values: Tensor) -> Tensor:
    """In float32, or float64 if they were."""
    flat = values.detach().flatten()
    return flat if flat.dtype == torch.float64 else flat.float()


def _fits(
    values: Sequence[Tensor], wanted: list[list[int]], *, free_zero: bool
) -> tuple[list[list[Fit]], list[Points]]:
    """For each layer the best codebook of every number wanted (ascending), and its points."""
    check_floating(values)
    # numpy sorts a layer on one thread, and several on several; a GPU sorts one after the other
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        on_cpu = all(v.device.type == "cpu" for v in values)
        ordered = list((pool.map if on_cpu else map)(_ordered, values))
    layers, moments = _points(ordered, wanted, free_zero=free_zero)
    solved = kmeans.solve(layers, wanted, free_zero=free_zero, device=_device(values))

    fitted = [
        [] if s.value is None else [kmeans.measured(s, c, free_zero=free_zero) for c in centres]
        for s, centres in zip(layers, solved, strict=True)
    ]
    binned = [i for i, s in enumerate(layers) if s.value is None]
    several: Any = ([each[i] for i in binned] for each in (ordered, moments, solved))
    for i, fits in zip(binned, histogram.polished(*several, free_zero=free_zero), strict=True):
        fitted[i] = fits
    return fitted, layers


def _device(values: Sequence[Tensor]) -> torch.device:
    return values[0].device if len(values) else torch.device("cpu")


def _ordered(v: Tensor) -> Tensor:
    """The layer's values in ascending order, float32 (float64 if they were), NaN last."""
    flat = _flat(v)
    if flat.device.type == "cpu":
        # numpy's sort is vectorised: 3 times faster than torch's at 2 million values, 2 threads.
        return torch.from_numpy(np.sort(flat.numpy()))
    return flat.sort().values


def _points(
    ordered: list[Tensor], wanted: list[list[int]], *, free_zero: bool
) -> tuple[list[Points], list[histogram.Moments | None]]:
    """The points of all layers, which come over in one transfer, and what stays on the device."""
    summaries, moments = [], []
    for x, numbers in zip(ordered, wanted, strict=True):
        # of sorted values the first and the last tell of all, NaN being last
        sound = _finite(x[:1]).all() & _finite(x[-1:]).all()
        summary, moment = [sound.double().view(1), *kmeans.distinct(x)], None
        if x.numel() > EXACT_DISTINCT and numbers:
            moment, cuts = histogram.grid(x, numbers, free_zero=free_zero)
            summary += cuts
        summaries.append(summary)
        moments.append(moment)
    packets = fetched([torch.cat(summary) for summary in summaries])
    layers = []
    for layer, (x, summary, packet) in enumerate(zip(ordered, summaries, packets, strict=True)):
        ends = np.cumsum([part.numel() for part in summary])[:-1]
        finite, distinct, starts, value, *bins = np.split(packet, ends)
        if not finite:
            raise ValueError(
                f"layer {layer} holds {len(x) - int(_finite(x).sum())} NaN or infinite values of "
                f"{len(x)}; a codebook needs finite values: look for where training diverged"
            )
        few, n = int(distinct[0]), len(x)
        if few > len(starts) and bins:
            layers.append(histogram.bins_as_points(*bins))
            continue
        if few > len(starts):  # no codebook is wanted
            few = n = 0
        layers.append(kmeans.values_as_points(starts[:few], value[:few], n, free_zero=free_zero))
    return layers, moments


def _finite(x: Tensor) -> Tensor:
    """Where ``x`` is not NaN, and within float32's range, because centres are float32."""
    return x.abs() <= torch.finfo(torch.float32).max


def _never_worse(fits: list[Fit]) -> list[Fit]:
    """A wider codebook may hold a narrower one, where a local optimum is worse than that."""
    best: list[Fit] = []
    for fit in fits:
        best.append(best[-1] if best and best[-1].error < fit.error else fit)
    return best


def _gathered(fitted: list[list[Fit]], values: Sequence[Tensor], *, widths: int) -> Codebooks:
    errors = np.full((len(fitted), widths), np.inf)
    for layer, fits in enumerate(fitted):
        errors[layer, : len(fits)] = [fit.error for fit in fits]
    device = _device(values)
    parts = iter(sent([torch.from_numpy(f.centres) for fits in fitted for f in fits], device))
    empty = torch.empty(0, device=device)
    centres = [[next(parts) for _ in fits] + [empty] * (widths - len(fits)) for fits in fitted]
    return Codebooks(torch.from_numpy(errors), centres)
