"""Codebooks: the best 2ᵇ values for each layer, for every bitwidth b at once.

The projection of V in ADMM (Yang et al., CVPR 2020, Section 3.4, problem 10) needs, for every layer
and every b in ℬ = {1, …, 8}, the quantization error

    ℰ_b(V̄) = min over V with b(V) = b of ‖V − V̄‖²

which is k-means in one dimension with K = 2ᵇ centres. In the joint mode `b` counts unique
*nonzero* values, so zero is one more centre, pinned and free. In one dimension an optimal cluster
is an interval of the sorted values, so a dynamic programme finds it; one sort serves every K.
`codebook` is the projection for any one K, the C step of LC quantization.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.projections.intervals import Row, best_cuts
from lib.projections.knapsack import integers

EXACT_DISTINCT = 4096  # a layer of at most this many distinct values is solved exactly
ROUNDS = 6  # of Lloyd's iterations on all values, after the dynamic programme on the bins
SCAN = 512  # row length of the blocked prefix sum
CANCELS = 1e-8  # below this part of Σv², differences of prefix sums have no seven digits left


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

    Args:
        values: one tensor a layer, any shape, floating, all on one device. Half precision is
            computed in float32. *All* values of the layer take part, those that are pruned too.
        bitwidths: b, strictly increasing, each in 1 … 8 bits.
        free_zero: zero is one more centre, that costs no code (joint pruning and quantization).
        widest: for each layer the largest b wanted, 0 for none; wider ones are left out (error
            +inf, no centres), which is much cheaper. None: all of `bitwidths`.

    Returns:
        `Codebooks`: errors (layers, widths) float64 in squared units of the values, and sorted
        float32 centres on the values' device, without zero when `free_zero`, without duplicates
        and without centres that no value is nearest to.

    Cost: sorting, O(n log n), and a few passes over n; then O(2ᵇ·m log m) on m ≤ 4,226 points a
    layer, by the CPU's compiled loops, or by Triton on a GPU (`intervals.programme` says which).
    About 40 bytes a weight for the largest layer, 12 for the others. From a GPU summaries of all
    layers come over in one transfer, codebooks in one, and a Triton programme's cuts in another;
    a layer within 1e-8·Σv² of a codebook takes one more, because its errors are taken again.

    Raises:
        ValueError: a bitwidth outside 1 … 8 or out of order; `widest` of another length or outside
            0 … 8; values that are not floating; NaN or infinite values (names layer and count).
    """
    _check_widths(bitwidths)
    wanted = _wanted_numbers(bitwidths, widest, layers=len(values))
    fitted, _ = _fits(values, wanted, free_zero=free_zero)
    return _gather([_never_worse(fits) for fits in fitted], values, widths=len(bitwidths))


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

    Args:
        weights: one tensor a layer, any shape, floating, all on one device.
        values: K, one for all layers or one a layer, each in 1 … 256.
        free_zero: zero is one more value, that does not count (joint pruning and quantization).

    Returns:
        New tensors of the same shapes and dtypes.

    Cost: sorting, O(n log n), and a few passes; O(K·m log m) on m ≤ 4,226 points a layer.
    Where, memory and transfers as in `fit_codebooks`.

    Raises:
        ValueError: a number of values outside 1 … 256 or not an integer, or not one a layer;
            weights that are not floating; NaN, infinite or beyond float32 (names layer and count).

    Carreira-Perpiñán and Idelbayev, Model compression as constrained optimization, with application
    to neural nets, Part II: quantization (arXiv:1707.04319), the adaptive codebook.
    """
    numbers = _checked_numbers(values, layers=len(weights))
    fitted, sketches = _fits(weights, [[k] for k in numbers], free_zero=free_zero)
    centres = _gather(fitted, weights, widths=1).centres
    projected = []
    for w, k, (levels,), s in zip(weights, numbers, centres, sketches, strict=True):
        if s.exact and len(s.number) - (s.zero if free_zero else 0) <= k:
            projected.append(w.detach().clone())
        else:  # levels rounded first, so that half precision gets the nearest of what it can hold
            projected.append(assign(w, levels.to(w.dtype), free_zero=free_zero))
    return projected


def assign(values: Tensor, centres: Tensor, *, free_zero: bool) -> Tensor:
    """Replace every value by the nearest of its codebook: argmin over q of |v − q|.

    q ranges over `centres`, and over 0 too when `free_zero`. Exact: distances are compared in
    float64. A value halfway between two goes to the one of smaller magnitude; zero halfway between
    −c and c goes to c.

    Args:
        values: any shape, floating, finite (NaN is not looked for: that would wait for the device).
        centres: (K,) floating, in any order, on the values' device.
        free_zero: zero is one of the codebook's values.

    Returns:
        A tensor of the values' shape and dtype; in half precision the centres are rounded to it.

    Cost: O(n log K), no host round trip. Raises ValueError when there is no value to choose from.
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
    flat = values.detach().flatten()
    flat = flat if flat.dtype == torch.float64 else flat.float()
    # v ≤ m for the values of a precision exactly where v ≤ m rounded down to it
    edges = middles.to(flat.dtype)
    edges = torch.where(edges > middles, edges.nextafter(torch.full_like(edges, -torch.inf)), edges)
    nearest = torch.bucketize(flat, edges, out_int32=True)
    return levels.to(values.dtype).index_select(0, nearest).view(values.shape)


# --------------------------------------------------------------------------------------------------
# Arguments
# --------------------------------------------------------------------------------------------------


def _checked_numbers(values: int | Sequence[int], *, layers: int) -> list[int]:
    numbers = integers([values] * layers if np.ndim(values) == 0 else values, "values")
    if len(numbers) != layers:
        raise ValueError(
            f"values has {len(numbers)} entries for {layers} layers; give one number for all, or "
            "one a layer"
        )
    for layer, k in enumerate(numbers):
        if not 1 <= k <= 256:
            raise ValueError(
                f"{k} values for layer {layer}, which is not in 1 … 256; to keep a layer as it is, "
                "leave it out"
            )
    return numbers


def _check_widths(bitwidths: Sequence[int]) -> None:
    for b in bitwidths:
        if not 1 <= b <= 8:
            raise ValueError(f"bitwidth {b} is outside 1 … 8; leave it out of bitwidths")
    if any(a >= b for a, b in pairwise(bitwidths)):
        raise ValueError(
            f"bitwidths {list(bitwidths)} must increase strictly; sort them, each once"
        )


def _wanted_numbers(
    bitwidths: Sequence[int], widest: Sequence[int] | None, *, layers: int
) -> list[list[int]]:
    """The numbers of centres to fit for each layer, 2ᵇ for every bitwidth it wants."""
    if widest is None:
        return [[2**b for b in bitwidths]] * layers
    if len(widest) != layers:
        raise ValueError(f"widest names {len(widest)} layers of {layers}; give one number a layer")
    for layer, b in enumerate(widest):
        if not 0 <= b <= 8:
            raise ValueError(f"widest {b} of layer {layer} is outside 0 … 8; use 0 for no width")
    return [[2**b for b in bitwidths if b <= most] for most in widest]


def _ordered(v: Tensor, layer: int) -> Tensor:
    """The layer's values in ascending order, float32 (float64 if they were), NaN last."""
    if not v.is_floating_point():
        raise ValueError(
            f"layer {layer} holds {v.dtype} values; a codebook needs a floating dtype: convert it"
        )
    flat = v.detach().flatten()
    flat = flat if flat.dtype == torch.float64 else flat.float()
    if flat.device.type == "cpu":
        # numpy's sort is vectorised: 3 times faster than torch's at 2 million values, 2 threads.
        return torch.from_numpy(np.sort(flat.numpy()))
    return flat.sort().values


# --------------------------------------------------------------------------------------------------
# All layers, each with the numbers of centres it wants
# --------------------------------------------------------------------------------------------------


class _Fit(NamedTuple):
    error: float
    centres: np.ndarray  # (≤ K,) float32


def _fits(
    values: Sequence[Tensor], wanted: list[list[int]], *, free_zero: bool
) -> tuple[list[list[_Fit]], list[_Sketch]]:
    """For each layer the best codebook of every number wanted (ascending), and its sketch."""
    # numpy sorts a layer on one thread, and several on several; a GPU sorts one after the other
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        on_cpu = all(v.device.type == "cpu" for v in values)
        ordered = list((pool.map if on_cpu else map)(_ordered, values, range(len(values))))
    sketches, moments = _sketch(ordered, wanted, free_zero=free_zero)
    device = values[0].device if len(values) else torch.device("cpu")
    solved = _solve(sketches, wanted, free_zero=free_zero, device=device)

    fitted: list[list[_Fit]] = [[] for _ in values]
    coarse = []
    for layer, (sketch, starts) in enumerate(zip(sketches, solved, strict=True)):
        if sketch.exact:
            fitted[layer] = [_measure(sketch, c, free_zero=free_zero) for c in starts]
        elif starts:
            coarse.append(layer)
    polished = _polish(
        [ordered[i] for i in coarse],
        [moments[i] for i in coarse],
        [solved[i] for i in coarse],
        free_zero=free_zero,
    )
    for layer, fits in zip(coarse, polished, strict=True):
        fitted[layer] = fits
    return fitted, sketches


# --------------------------------------------------------------------------------------------------
# On the device: a sketch of every layer, small enough to be sent over
# --------------------------------------------------------------------------------------------------


class _Sketch(NamedTuple):
    """A layer as the host sees it: points in ascending order, each standing for some values.

    In an exact sketch a point is a distinct value, and `value` holds it; otherwise it is a bin.
    `mean` was subtracted before the sums were taken (zero when zero is pinned).
    """

    exact: bool
    mean: float
    number: np.ndarray  # (points,) how many values
    total: np.ndarray  # (points,) Σ(v − mean)
    square: np.ndarray  # (points,) Σ(v − mean)²
    negative: int  # how many of the points are negative; the next `zero` hold zeros
    zero: int
    value: np.ndarray  # (points,) if exact, else (0,)


class _Moments(NamedTuple):
    """What stays on the device for Lloyd's iterations."""

    mean: Tensor  # ()
    prefix: Tensor  # (n + 1,) float64, sums of v − mean over the sorted values
    squares: Tensor | None  # (n + 1,) float64, of (v − mean)², where errors are summed by them


def _sketch(
    ordered: list[Tensor], wanted: list[list[int]], *, free_zero: bool
) -> tuple[list[_Sketch], list[_Moments | None]]:
    """Summarise all layers on their device, and bring the summaries over in one transfer."""
    packets: list[Tensor] = []
    moments: list[_Moments | None] = []
    sizes: list[int] = []  # points of the grid; 0 where a layer cannot need one
    for x, numbers in zip(ordered, wanted, strict=True):
        size, moment = 0, None
        # of sorted values the first and the last tell of all, NaN being last
        finite = _finite(x[:1]).all() & _finite(x[-1:]).all()
        packet = [finite.double().view(1), *_distinct(x)]
        if x.numel() > EXACT_DISTINCT and numbers:
            size = _bins(numbers)
            moment, grid = _grid(x, size, free_zero=free_zero)
            packet += grid
        packets.append(torch.cat(packet))
        moments.append(moment)
        sizes.append(size)
    if not packets:
        return [], []
    host = torch.cat(packets).cpu().numpy()
    ends = np.cumsum([p.numel() for p in packets])[:-1]
    sketches = []
    for layer, (packet, size) in enumerate(zip(np.split(host, ends), sizes, strict=True)):
        n = ordered[layer].numel()
        if not packet[0]:
            raise ValueError(
                f"layer {layer} holds {n - int(_finite(ordered[layer]).sum())} NaN or infinite "
                f"values of {n}; "
                "a codebook needs finite values: look for where training diverged"
            )
        sketches.append(_unpack(packet[1:], n, size, free_zero=free_zero))
    return sketches, moments


def _finite(x: Tensor) -> Tensor:
    """Where ``x`` is not NaN, and within float32's range, because centres are float32."""
    return x.abs() <= torch.finfo(torch.float32).max


def _bins(numbers: list[int]) -> int:
    """Bins of a sketch: enough that the largest codebook's intervals are a few bins long each."""
    return 128 + 16 * numbers[-1]


def _distinct(x: Tensor) -> list[Tensor]:
    """How many distinct values, and the first 4,096 of them: where each starts, and its value."""
    n = x.numel()
    if n == 0:
        return [x.new_zeros(1, dtype=torch.float64)]
    changes, most = x[1:] != x[:-1], min(n, EXACT_DISTINCT)
    if x.device.type == "cpu":
        starts = torch.full((most,), n)
        distinct = 1 + int(changes.count_nonzero())
        if distinct <= most:
            starts[0], starts[1:distinct] = 0, changes.nonzero().flatten() + 1
        count = torch.tensor([distinct], dtype=torch.float64)
    else:
        rank = torch.zeros(n, dtype=torch.int32, device=x.device)  # of the distinct value
        torch.cumsum(changes, 0, dtype=torch.int32, out=rank[1:])
        # Looking the ranks up needs no sizes that depend on the data: the device is not waited for.
        starts = torch.searchsorted(rank, torch.arange(most, dtype=torch.int32, device=x.device))
        count = rank[-1:].double() + 1
    return [count, starts.double(), x[starts.clamp(max=n - 1)].double()]


def _grid(x: Tensor, bins: int, *, free_zero: bool) -> tuple[_Moments, list[Tensor]]:
    """Cut the sorted values into bins; ranks of the cuts, prefix sums and squares at them."""
    n = x.numel()
    # The best centres lie as dense as the cube root ρ^⅓ of the values' density. A gap of Δ between
    # neighbours estimates ρ = 1/Δ, thus ∫ρ^⅓ over the gap is Δ^⅔: no histogram has to be chosen,
    # single outliers get bins of their own, and so do clumps, whatever the scale.
    scale = torch.maximum(x[-1].abs(), x[0].abs()).clamp(min=torch.finfo(x.dtype).tiny)
    scaled = x / scale
    gaps = (scaled[1:] - scaled[:-1]).pow_(2 / 3)
    for _ in range(3):  # one cut in a gap is enough: a far outlier must not use up the bins
        gaps.clamp_(max=gaps.sum() / bins)
    measure = _prefix(gaps)  # (n,)
    steps = torch.arange(1, bins, device=x.device, dtype=torch.float64) / bins
    cuts = _search(measure, steps * measure[-1])
    signs = torch.stack(
        [torch.searchsorted(x, x.new_zeros(())), torch.searchsorted(x, x.new_zeros(()), right=True)]
    )  # first value that is not negative, first that is positive
    ends = torch.arange(0, 2, device=x.device) * n
    ranks = torch.cat([ends, cuts, signs]).sort().values  # (bins + 3,)

    mean = x.new_zeros((), dtype=torch.float64) if free_zero else x.mean(dtype=torch.float64)
    # squares of the differences cancel less around the mean
    squares = None
    if _errors_by_sums(x):
        centred = x.to(torch.float64, copy=True).sub_(mean)
        prefix, squares = _prefix(centred), _prefix(centred.square_())
        at_ranks = squares[ranks]
    else:
        from lib.projections import sums_cpu

        values, shift = x.numpy(), float(mean)
        prefix = torch.from_numpy(sums_cpu.prefix_sums(values, shift, row=SCAN))
        at_ranks = torch.from_numpy(sums_cpu.prefix_squares(values, shift, ranks.numpy(), row=SCAN))
    moments = _Moments(mean, prefix, squares)
    return moments, [mean.view(1), signs.double(), ranks.double(), prefix[ranks], at_ranks]


def _errors_by_sums(x: Tensor) -> bool:
    """Whether errors are differences of prefix sums, which a GPU has at hand in a few launches."""
    return x.device.type != "cpu"


def _search(x: Tensor, sought: Tensor) -> Tensor:
    """How many of the ascending ``x`` are below each of ``sought``."""
    if x.device.type == "cpu":  # numpy begins where the one before was found
        return torch.from_numpy(np.searchsorted(x.numpy(), sought.numpy()))
    return torch.searchsorted(x, sought)


def _prefix(x: Tensor) -> Tensor:
    """Prefix sums (n + 1,), summed in rows: as exact as pairwise summation, and on a GPU always in
    the same order, which a scan of one long row is not."""
    if x.device.type == "cpu":
        from lib.projections import sums_cpu

        return torch.from_numpy(sums_cpu.prefix_sums(x.numpy(), 0.0, row=SCAN))
    n = x.numel()
    sums = x.new_empty(1 + n + -n % SCAN, dtype=torch.float64)
    sums[:1].zero_()  # an assigned 0 would be sent to the device
    sums[1 : n + 1].copy_(x)
    sums[n + 1 :].zero_()
    rows = sums[1:].view(-1, SCAN)
    rows.cumsum_(1)
    if len(rows) > 1:
        rows += _prefix(rows[:, -1])[:-1, None]
    return sums[: n + 1]


def _unpack(packet: np.ndarray, n: int, size: int, *, free_zero: bool) -> _Sketch:
    distinct, most = int(packet[0]), min(n, EXACT_DISTINCT)
    if distinct <= most:
        starts, value = packet[1 : 1 + distinct], packet[1 + most : 1 + most + distinct]
        number = np.diff(starts, append=n)
        mean = 0.0 if free_zero or n == 0 else float(number @ value / n)
        centred = value - mean
        return _Sketch(
            exact=True,
            mean=mean,
            number=number,
            total=number * centred,
            square=number * centred**2,
            negative=int((value < 0).sum()),
            zero=int((value == 0).sum()),
            value=value,
        )
    if not size:  # no codebook is wanted
        nothing = np.empty(0)
        return _Sketch(True, 0.0, nothing, nothing, nothing, 0, 0, nothing)
    mean, below, above = packet[1 + 2 * most :][:3]
    ranks, totals, squares = packet[1 + 2 * most + 3 :].reshape(3, size + 3)
    kept = np.append(np.diff(ranks) > 0, True)  # two cuts in one gap: a bin without values
    ranks = ranks[kept]
    return _Sketch(
        exact=False,
        mean=float(mean),
        number=np.diff(ranks),
        total=np.diff(totals[kept]),
        square=np.diff(squares[kept]),
        negative=int(np.searchsorted(ranks, below)),
        zero=int(np.searchsorted(ranks, above) - np.searchsorted(ranks, below)),
        value=np.empty(0),
    )


# --------------------------------------------------------------------------------------------------
# On the host: the dynamic programme
# --------------------------------------------------------------------------------------------------


def _row(s: _Sketch, part: slice, *, asked: int, free_zero: bool) -> Row:
    number, total, square = s.number[part], s.total[part], s.square[part]
    rest = np.full(len(number) + 1, np.inf)
    rest[-1] = 0
    if free_zero:
        rest[:-1] = np.cumsum(square[::-1])[::-1]
    # A shift changes no cost of a cluster; around their mean the squares cancel least.
    shift = total.sum() / max(number.sum(), 1)
    if s.exact:
        centred = s.value[part] - s.mean - shift
        total, square = number * centred, number * centred**2
    else:
        square = square - 2 * shift * total + number * shift**2
        total = total - number * shift
    prefix = [np.concatenate([[0.0], np.cumsum(a)]) for a in (number, total, square)]
    return Row(*prefix, rest=rest, asked=asked)


def _rows(s: _Sketch, numbers: list[int], *, free_zero: bool) -> list[Row]:
    asked = numbers[-1] if numbers else 0
    if not free_zero:
        return [_row(s, slice(None), asked=asked, free_zero=False)]
    # An optimal nonzero cluster has values of one sign only: those of the other sign are nearer to
    # zero than to its centre. So the signs are two problems, that share K clusters.
    points, positive = len(s.number), len(s.number) - s.negative - s.zero
    inwards = slice(points - 1, points - 1 - positive if s.negative + s.zero else None, -1)
    return [
        _row(s, slice(0, s.negative), asked=asked, free_zero=True),
        _row(s, inwards, asked=asked, free_zero=True),
    ]


def _solve(
    sketches: list[_Sketch], wanted: list[list[int]], *, free_zero: bool, device: torch.device
) -> list[list[np.ndarray]]:
    """Means of the optimal clusters for every layer and number wanted, zero left out."""
    layers = [_rows(s, k, free_zero=free_zero) for s, k in zip(sketches, wanted, strict=True)]
    rows = list(chain.from_iterable(layers))
    points = [len(s.number) for s in sketches]
    cuts = iter(best_cuts(rows, wanted, signs=free_zero, points=points, device=device))
    return [
        [_means(s, paths) for paths in zip(*(next(cuts) for _ in part), strict=True)]
        for s, part in zip(sketches, layers, strict=True)
    ]


def _means(s: _Sketch, paths: tuple[np.ndarray, ...]) -> np.ndarray:
    """The clusters' means, from the positions between them in each row of the layer."""
    if len(paths) == 2:  # the positive row runs backwards from the last point
        paths = paths[0], len(s.number) - paths[1][::-1]
    total, mean = (s.number * s.value, 0.0) if s.exact else (s.total, s.mean)
    means = [
        np.add.reduceat(total[: path[-1]], path[:-1])
        / np.add.reduceat(s.number[: path[-1]], path[:-1])
        + mean
        for path in paths
        if len(path) > 1
    ]
    return np.concatenate(means) if means else np.empty(0)


# --------------------------------------------------------------------------------------------------
# Back on the device: Lloyd's iterations on all values, and the errors
# --------------------------------------------------------------------------------------------------


def _polish(
    ordered: list[Tensor],
    moments: list[_Moments],
    starts: list[list[np.ndarray]],
    *,
    free_zero: bool,
) -> list[list[_Fit]]:
    """Improve the centres on the sorted values; one transfer to the device, one back."""
    if not ordered:
        return []
    tables = [_table(codebooks, free_zero=free_zero) for codebooks in starts]
    numbers = [len(t) for t in tables]
    padded = np.full((len(tables), max(numbers), max(t.shape[1] for t in tables)), np.inf)
    for whole, t in zip(padded, tables, strict=True):
        whole[: len(t), : t.shape[1]] = t
    levels = torch.from_numpy(padded).to(ordered[0].device)
    found = _lloyd(ordered, moments, levels, free_zero=free_zero)
    host = torch.cat([part.double().flatten() for part in found]).cpu().numpy()
    centres, counts = host[: 2 * padded.size].reshape(2, *padded.shape)
    errors, trust = np.split(host[2 * padded.size :], [padded[..., 0].size])
    errors = [e[:n] for e, n in zip(errors.reshape(padded.shape[:2]), numbers, strict=True)]
    # on a GPU one more transfer, where ADMM has nearly ended
    again = [i for i, (e, least) in enumerate(zip(errors, trust, strict=True)) if e.min() < least]
    if again:
        direct = [
            _errors(ordered[i], found.levels[i, : numbers[i]], found.counts[i, : numbers[i]])
            for i in again
        ]
        parts = torch.cat(direct).cpu().split([numbers[i] for i in again])
        for i, part in zip(again, parts, strict=True):
            errors[i] = part.numpy()
    return [
        [
            _Fit(float(e), _clean(c[n > 0], free_zero=free_zero))
            for e, c, n in zip(each, centres[i], counts[i], strict=False)
        ]
        for i, each in enumerate(errors)
    ]


def _table(codebooks: list[np.ndarray], *, free_zero: bool) -> np.ndarray:
    """(codebooks, levels): ascending, with zero if it is free, filled up with +inf."""
    table = np.full((len(codebooks), max(len(c) for c in codebooks) + free_zero), np.inf)
    for row, centres in zip(table, codebooks, strict=True):
        row[: len(centres)] = centres
        if free_zero:
            row[len(centres)] = 0
    return np.sort(table, axis=1)


class _Polished(NamedTuple):
    levels: Tensor  # (layers, codebooks, levels) float64
    counts: Tensor  # (layers, codebooks, levels) how many of the sorted values each has
    errors: Tensor  # (layers, codebooks) float64
    trust: Tensor  # (layers,) float64: an error below it has lost digits, and is measured directly


def _lloyd(
    ordered: list[Tensor], moments: list[_Moments], levels: Tensor, *, free_zero: bool
) -> _Polished:
    """Alternate nearest centres and means, all codebooks of all layers at once; then measure."""
    moving = (levels != 0) if free_zero else torch.ones_like(levels, dtype=torch.bool)
    mean = torch.stack([m.mean for m in moments]).view(-1, 1, 1)
    prefixes = [m.prefix for m in moments]
    for _ in range(ROUNDS):
        upper, counts = _shares(ordered, levels)
        means = _between(prefixes, upper) / counts.clamp(min=1) + mean
        levels = torch.where(moving & (counts > 0), means, levels)
    levels = levels.float().double()  # the centres as they are returned
    upper, counts = _shares(ordered, levels)
    if moments[0].squares is None:
        nothing = levels.new_zeros(levels.shape[:2])  # all errors are measured directly
        return _Polished(levels, counts, nothing, levels.new_full((len(levels),), torch.inf))
    # from prefix sums: ℰ = Σ over intervals of Σv² − 2c·Σv + n·c², about the mean
    squares = [m.squares for m in moments]
    c = (levels - mean).masked_fill(counts == 0, 0)
    terms = _between(squares, upper) - 2 * c * _between(prefixes, upper) + counts * c.square()
    trust = CANCELS * torch.cat([total[-1:] for total in squares])
    return _Polished(levels, counts, terms.sum(-1), trust)


def _between(prefixes: list[Tensor], upper: Tensor) -> Tensor:
    """Sums over the intervals that end at ``upper``, by each layer's prefix sums."""
    ends = torch.stack([prefix[u] for prefix, u in zip(prefixes, upper, strict=True)])
    return torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[..., :1]))


def _errors(x: Tensor, levels: Tensor, counts: Tensor) -> Tensor:
    """ℰ = Σᵢ (vᵢ − c)² of every codebook, float64; a level has so many of the sorted values."""
    # Directly: differences of prefix sums would lose it where ℰ ≪ Σv². Each difference is rounded
    # to the values' precision, 6e-8 of itself in float32; squares are not.
    errors, differences = [], torch.empty_like(x)
    for c, n in zip(levels.to(x.dtype), counts, strict=True):
        if x.device.type == "cpu":
            from lib.projections import sums_cpu

            sums_cpu.differences(x.numpy(), c.numpy(), n.numpy(), differences.numpy())
        else:
            differences = torch.repeat_interleave(c, n, output_size=x.numel()).sub_(x)
        errors.append(torch.linalg.vector_norm(differences, dtype=torch.float64).square().view(1))
    return torch.cat(errors)


def _shares(ordered: list[Tensor], levels: Tensor) -> tuple[Tensor, Tensor]:
    """Where each level's interval of the sorted values ends, and how many values it has."""
    middles = (levels[..., 1:] + levels[..., :-1]) / 2  # (layers, codebooks, levels - 1)
    edges = {dtype: _edges(middles, dtype) for dtype in {x.dtype for x in ordered}}
    upper = torch.stack([_search(x, edges[x.dtype][i]) for i, x in enumerate(ordered)])
    # A centre left without values stays where it was; its neighbours may then pass it.
    upper = upper.cummax(-1).values
    return upper, torch.diff(upper, dim=-1, prepend=torch.zeros_like(upper[..., :1]))


def _edges(middles: Tensor, dtype: torch.dtype) -> Tensor:
    """The least numbers of ``dtype`` beyond the middles, and one that is beyond all values."""
    edges = middles.to(dtype)
    # The middle rounded to the values' precision: a value equal to it lies on one side in truth.
    beyond = edges.nextafter(torch.full_like(edges, torch.inf))
    edges = torch.where(edges <= middles, beyond, edges)
    return torch.nn.functional.pad(edges, (0, 1), value=torch.inf)


# --------------------------------------------------------------------------------------------------
# Results
# --------------------------------------------------------------------------------------------------


def _clean(centres: np.ndarray, *, free_zero: bool) -> np.ndarray:
    centres = np.sort(centres.astype(np.float32)) + np.float32(0)  # no −0
    kept = np.append(True, centres[1:] != centres[:-1])[: len(centres)]
    return centres[kept & (centres != 0) if free_zero else kept]


def _measure(s: _Sketch, centres: np.ndarray, *, free_zero: bool) -> _Fit:
    """Round the centres of a layer of few distinct values, and measure their error."""
    centres = _clean(centres, free_zero=free_zero)
    levels = np.sort(np.append(centres, 0) if free_zero else centres).astype(np.float64)
    if not len(s.value):
        return _Fit(0.0, centres)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, s.value)
    error = float(s.number @ (s.value - levels[nearest]) ** 2)
    used = np.bincount(nearest, minlength=len(levels)) > 0
    return _Fit(error, centres[used[levels != 0] if free_zero else used])


def _never_worse(fits: list[_Fit]) -> list[_Fit]:
    """A wider codebook may hold a narrower one, where a local optimum is worse than that."""
    best: list[_Fit] = []
    for fit in fits:
        best.append(best[-1] if best and best[-1].error < fit.error else fit)
    return best


def _gather(fitted: list[list[_Fit]], values: Sequence[Tensor], *, widths: int) -> Codebooks:
    errors = np.full((len(fitted), widths), np.inf)
    for layer, fits in enumerate(fitted):
        errors[layer, : len(fits)] = [fit.error for fit in fits]
    flat = [f.centres for fits in fitted for f in fits]
    device = values[0].device if len(values) else torch.device("cpu")
    host = torch.from_numpy(np.concatenate([*flat, np.empty(0, np.float32)]))
    parts = iter(host.to(device).split([len(c) for c in flat]))
    empty = torch.empty(0, device=device)
    centres = [[next(parts) for _ in fits] + [empty] * (widths - len(fits)) for fits in fitted]
    return Codebooks(torch.from_numpy(errors), centres)
