"""The two projections of the size budget, both of them knapsacks.

With the bitwidths fixed, which weights stay is a 0-1 knapsack over every weight of every layer
(``project_fixed_bitwidth``); with the sparsity fixed, which bitwidth each layer gets is a
multiple-choice knapsack (``choose_bitwidths``).
"""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 20  # weights scanned at a time: two float32 buffers of this length stay in cache
ROWS, COLUMNS = 8, 256  # a chunk is searched for candidates in blocks of this shape
BLOCK = ROWS * COLUMNS
SAMPLE = 1 << 18  # weights drawn to guess the threshold
DIRECT = 1 << 16  # with fewer weights than this, the guess costs more than it saves
KEY_SHIFT = 14  # a sampled float32 keeps its 8 exponent and 9 leading mantissa bits
RADIX = 16  # bits of the ratio that each round of the exact selection settles
MARGINS = (3.0, 30.0)  # standard errors of the sample on each side, first and second try
SLIVER = 2.0**-20  # the scan's thresholds are float32, one a layer: they agree to this
TINY, HUGE = 1e-30, 1e30  # ratios in between have float32 squares without under- or overflow
MAX_BITWIDTH = 64


class Kept(NamedTuple):
    """What ``project_fixed_bitwidth`` returns; all but the weights lies on the CPU."""

    weights: list[Tensor]  # the projection, shapes and dtypes of the input
    bits: Tensor  # () int64, Σ bᵢ·‖Wᵢ‖₀
    profit: Tensor  # () float64, Σ w² over the kept
    upper_bound: Tensor  # () float64, the optimum of the LP relaxation
    counts: Tensor  # (layers,) int64, ‖Wᵢ‖₀


class Choice(NamedTuple):
    """What ``choose_bitwidths`` returns."""

    bitwidths: Tensor  # (layers,) int64
    error: float  # Σ of the chosen errors
    bits: int  # Σ bᵢ·nnzᵢ
    lower_bound: float  # no choice within the budget has a smaller error


# ------------------------------------------------------------------ fixed bitwidth: which weights


@torch.no_grad()
def project_fixed_bitwidth(
    weights: Sequence[Tensor],
    bitwidths: Sequence[int] | Tensor,
    *,
    budget: int,
    out: Sequence[Tensor] | None = None,
) -> Kept:
    """Keep the weights that are worth most per bit, as many as the budget holds.

    Solves  min ‖W − W̄‖²  s.t.  Σᵢ bᵢ·‖Wᵢ‖₀ ≤ budget, which is the 0-1 knapsack
    max ⟨W̄², X⟩  s.t.  Σᵢ bᵢ·ΣⱼXᵢⱼ ≤ budget  over binary X, with W = X ⊙ W̄.

    Greedy: the longest prefix that fits of the nonzero weights, ordered by w²/b descending, equal
    ratios by (layer, index). With one bitwidth it is the optimum. Otherwise the optimum is at most
    ``upper_bound``, the LP relaxation's, and ``upper_bound - profit`` is less than the square of
    the one weight that no longer fitted. The prefix itself is exact: ratios are compared in
    float64 and bits are counted as integers. ``profit`` carries float64 rounding up to 65,536
    weights, and a relative error of about 1e-7 above.

    Parameters
    ----------
    weights : floating tensors of any shapes on one device.
    bitwidths : bits that a nonzero weight of each layer costs, (layers,) integers from 1 to 64.
    budget : bits for all layers together, a non-negative integer.
    out : tensors to write to, of the same shapes and dtypes; may be the weights themselves.
        Untouched when the input is refused. Default: new tensors.

    Linear in the number of weights, without a sort. On the CPU a sample brackets the threshold, one
    reading pass counts what lies above the bracket and collects what lies inside, one pass writes.
    On other devices, for float64, or should two brackets miss, every weight is a candidate (about
    50 bytes a weight). A float64 weight below 2⁻¹⁰³⁷ of the largest counts as zero.

    Raises ``ValueError`` for NaN or infinite weights, a negative or fractional budget, a bitwidth
    out of range, and lists that do not match.

    Yang, Gui, Zhu, Liu (CVPR 2020), Section 3.3, eq. 8 and 9, Proposition 1.
    """
    weights = [w.detach() for w in weights]
    bits = _checked_bitwidths(bitwidths, len(weights))
    budget = _checked_budget(budget)
    _check_floating(weights)
    if out is not None:
        _check_out(out, weights)
    flat = [w.reshape(-1) for w in weights]
    scale = _scale(flat)
    items, cut = _search(flat, bits, budget, scale)

    kept = [torch.empty_like(w) for w in weights] if out is None else list(out)
    kinds = [(b, w.dtype) for b, w in zip(bits, weights, strict=True)]
    lambdas = {kind: _lambdas(cut.ratio, *kind, scale) for kind in {*kinds}}
    for i, (w, o) in enumerate(zip(weights, kept, strict=True)):
        _write(w, o.detach(), i, cut, *lambdas[kinds[i]])

    spent = sum(b * n for b, n in zip(bits, cut.counts, strict=True))
    profit = _energy(kept) if items.profit is None else items.profit + cut.profit / scale / scale
    # LP relaxation: the prefix, then the fraction of the next weight that the budget still holds
    bound = profit + (budget - spent) * cut.ratio / scale / scale if cut.ratio else profit
    return Kept(
        weights=kept,
        bits=torch.tensor(spent, dtype=torch.int64),
        profit=torch.tensor(profit, dtype=torch.float64),
        upper_bound=torch.tensor(bound, dtype=torch.float64),
        counts=torch.tensor(cut.counts, dtype=torch.int64),
    )


class _Items(NamedTuple):
    """The weights among which the threshold lies."""

    ratio: Tensor  # (items,) float64, (scale·w)²/b
    layer: Tensor  # (items,) int64
    above: list[int]  # per layer, how many weights beyond all items are kept without a question
    profit: float | None  # Σ w² of those, where the scan summed it


class _Cut(NamedTuple):
    """Where the prefix ends, in the order (ratio descending, layer, index)."""

    ratio: float  # T, of the first item that does not fit; 0 if all fit
    layer: int  # its layer: ties at T stay in the layers before, and go in the layers after
    ties: int  # ties at T that stay in its own layer
    counts: list[int]  # weights kept, per layer
    profit: float  # Σ (scale·w)² of the items kept


def _search(flat: list[Tensor], bits: list[int], budget: int, scale: float) -> tuple[_Items, _Cut]:
    """Find the cut, and the items it was found among; raise for weights that are not finite."""
    size = sum(w.numel() for w in flat)
    scannable = size > DIRECT and all(
        w.device.type == "cpu" and w.dtype != torch.float64 for w in flat
    )
    for margin in MARGINS if scannable else ():
        low, high = _bracket(flat, bits, budget, margin)
        items = _scan(flat, bits, low, high)
        cut = None if items is None else _cut(items, bits, budget)
        if cut is not None and (
            (low == 0 or cut.ratio > low * (1 + SLIVER)) and cut.ratio < high * (1 - SLIVER)
        ):
            return items, cut
    items = _all_items(flat, bits, scale)
    return items, _cut(items, bits, budget)


def _bracket(
    flat: list[Tensor], bits: list[int], budget: int, margin: float
) -> tuple[float, float]:
    """Two ratios between which T probably lies, from every k-th weight of every layer."""
    size = sum(w.numel() for w in flat)
    stride = max(1, size // SAMPLE) | 1  # odd: rows of even length are not hit in one column only
    drawn = [w[min(stride // 2, w.numel() // 2) :: stride].float() for w in flat]
    counts = [d.numel() for d in drawn]
    # bits that one drawn weight stands for
    share = [b * w.numel() / max(1, n) for b, w, n in zip(bits, flat, counts, strict=True)]
    ratio = torch.empty(sum(counts))
    cost = torch.empty(sum(counts), dtype=torch.float64)
    pieces = zip(ratio.split(counts), cost.split(counts), strict=True)
    for (r, c), d, b, s in zip(pieces, drawn, bits, share, strict=True):
        torch.mul(d, d, out=r).div_(b)  # w²/b
        c.fill_(s)
    # non-negative floats order as their bits; a NaN may look negative, and is refused later
    top = 0x7F800000 >> KEY_SHIFT  # infinity
    key = ratio.view(torch.int32).bitwise_right_shift_(KEY_SHIFT).clamp_(0, top)
    spend = torch.bincount(key, cost, minlength=top + 1)
    spend = spend.flip(0).cumsum(0)  # (keys,) bits spent on the keys from the largest down

    p = min(1.0, budget / float(spend[-1]))
    variance = sum(n * s * s for n, s in zip(counts, share, strict=True)) * p * (1 - p)
    slack = margin * (math.sqrt(variance) + max(share))
    goals = torch.tensor([budget - slack, budget + slack], dtype=torch.float64)
    first, last = torch.searchsorted(spend, goals, right=True).tolist()
    edges = torch.tensor([top - last, top - first + 1], dtype=torch.int32).clamp_(0, top)
    low, high = (edges << KEY_SHIFT).view(torch.float32).tolist()
    # a wider bracket is as valid, and these stay clear of denormal and infinite squares
    low = 0.0 if low < TINY else min(low, HUGE)
    high = math.inf if high > HUGE else max(high, TINY)
    return low, high


def _scan(flat: list[Tensor], bits: list[int], low: float, high: float) -> _Items | None:
    """Count the weights with ratio ≥ high and collect those in between, in one reading pass.

    A weight is judged by float32(w²), or by abs(w) where squares could underflow; rounding keeps
    the order, so the judgement is consistent within a layer. None if a finite sum overflowed.
    """
    squares = low > 0
    b = torch.tensor(bits, dtype=torch.float64)
    edges = torch.stack([b * low, b * high])  # (2, layers), w² = ratio·b
    lows, highs = (edges if squares else edges.sqrt()).float().tolist()
    length = min(CHUNK, -(-max(w.numel() for w in flat) // BLOCK) * BLOCK)
    size, mask = torch.empty(2, length, dtype=torch.float32)
    counts, sums, found, owners = [], [], [], []
    for layer, chunk in _chunks(flat):
        n = chunk.numel()
        padded = -(-n // BLOCK) * BLOCK
        a, m = size[:padded], mask[:padded]
        if squares and chunk.dtype == torch.float32:
            torch.mul(chunk, chunk, out=a[:n])
        elif squares:
            a[:n].copy_(chunk).square_()
        else:
            a[:n].copy_(chunk).abs_()
        a[n:].zero_()
        torch.ge(a, highs[layer], out=m)
        counts.append(m.sum())  # an integer below 2²⁴: exact
        # NaN·0 and inf·1 show in the sum, wherever they are; it adds pairwise, which a dot product
        # does not, and equal weights cost that one five digits
        sums.append(m.mul_(a).sum())
        # the derivative of a clipped ramp: a where low < a < high, else 0, in one operation
        torch.ops.aten.hardtanh_backward.grad_input(a, a, lows[layer], highs[layer], grad_input=m)
        found.append(_nonzeros(m))
        owners.append(layer)
    sums = torch.stack(sums).double()
    if not bool(sums.isfinite().all()):
        _check_finite(flat)
        return None

    above = torch.zeros(len(flat), dtype=torch.int64)
    above.index_add_(0, torch.tensor(owners), torch.stack(counts).long())
    layer = _repeat(owners, [f.numel() for f in found], dtype=torch.int64)
    found = torch.cat(found)
    # in binary floating point sqrt(float32(w²)) is abs(w) again, so nothing was lost
    w = (found.sqrt() if squares else found).double()
    return _Items(
        ratio=w.square_().div_(b[layer]),  # w²/b
        layer=layer,
        above=above.tolist(),
        profit=float(sums.sum()) if squares else None,
    )


def _nonzeros(values: Tensor) -> Tensor:
    """The nonzeros of a mostly zero float32 vector with no negative value, in some fixed order.

    A nonzero is sought among the maxima of ROWS values COLUMNS apart. Small blocks, because they
    are read by the core that wrote them: with the rows a whole chunk apart, half of every column
    came from the other core's cache, and the next chunk's writes took six times as long.
    """
    blocks = values.view(-1, ROWS, COLUMNS)
    pairs = values.view(torch.int64)  # two neighbours at a look
    width = COLUMNS // 2
    hits = blocks.amax(1).view(torch.int64).view(-1).nonzero()  # (hits, 1)
    first = hits + hits.div(width, rounding_mode="floor") * (width * (ROWS - 1))
    near = pairs.take(first + torch.arange(ROWS) * width).view(torch.float32).view(-1)
    return near.index_select(0, near.bool().nonzero().squeeze(1))


def _chunks(flat: list[Tensor]) -> Iterator[tuple[int, Tensor]]:
    for layer, w in enumerate(flat):
        for chunk in w.split(CHUNK) if w.numel() else ():
            yield layer, chunk


def _all_items(flat: list[Tensor], bits: list[int], scale: float) -> _Items:
    """Every weight as an item; the whole network in a few operations, on any device."""
    if not flat:
        return _Items(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64), [], 0)
    device = flat[0].device
    sizes = [w.numel() for w in flat]
    layer = _repeat(range(len(flat)), sizes, dtype=torch.int64, device=device)
    b = torch.tensor(bits, dtype=torch.float64, device=device)
    ratio = torch.cat([w.double() for w in flat]).mul_(scale).square_().div_(b[layer])  # w²/b
    if not bool(ratio.isfinite().all()):
        _check_finite(flat)
    return _Items(ratio, layer, [0] * len(flat), 0.0)


def _repeat(
    values: Iterable[float], lengths: Iterable[int], *, dtype: torch.dtype, device: object = None
) -> Tensor:
    # torch.repeat_interleave took 25 ns a value on a CPU, this takes under 1
    pairs = zip(values, lengths, strict=True)
    return torch.cat([torch.full((n,), v, dtype=dtype, device=device) for v, n in pairs])


def _cut(items: _Items, bits: list[int], budget: int) -> _Cut | None:
    """The prefix's end among the items; None if what lies above them is over the budget."""
    ratio, layer, above, _ = items
    layers = len(bits)
    room = budget - sum(b * n for b, n in zip(bits, above, strict=True))
    if room < 0:
        return None
    b = torch.tensor(bits, dtype=torch.float64, device=ratio.device)
    cost = b[layer].mul_(ratio > 0)  # a zero weight is never kept and costs nothing
    critical = _critical(ratio, cost, room)
    kept = ratio > critical
    counts = torch.bincount(layer[kept], minlength=layers).tolist()
    profit = float(ratio[kept].mul_(b[layer[kept]]).sum())
    room -= sum(b * n for b, n in zip(bits, counts, strict=True))
    counts = [n + m for n, m in zip(above, counts, strict=True)]
    if critical == 0:
        return _Cut(0.0, layers, 0, counts, profit)
    tied = torch.bincount(layer[ratio == critical], minlength=layers).tolist()
    for i, n in enumerate(tied):  # equal ratios stay in the order of (layer, index)
        ties = min(n, room // bits[i])
        counts[i] += ties
        room -= ties * bits[i]
        profit += critical * ties * bits[i]
        if ties < n:
            return _Cut(critical, i, ties, counts, profit)
    raise AssertionError("the critical item fits")


def _critical(ratio: Tensor, cost: Tensor, room: int) -> float:
    """The largest ratio down to which, itself included, the items cost more than ``room``; else 0.

    A radix selection: the bits of non-negative floats order as integers, so a histogram of the
    leading ones settles 16 bits of the answer and leaves one bin to look into. Costs are integers
    below 2⁵³, which float64 adds exactly and in any order.
    """
    if float(cost.sum()) <= room:
        return 0.0
    code = ratio.view(torch.int64)
    while True:
        low, high = (int(v) for v in torch.stack(torch.aminmax(code)).tolist())
        if low == high:
            return float(torch.tensor(low).view(torch.float64))
        shift = max(0, (high - low).bit_length() - RADIX)
        key = (code - low) >> shift
        bins = (high - low >> shift) + 1
        spend = torch.bincount(key, cost, minlength=bins).flip(0).cumsum(0)  # (bins,)
        goal = torch.tensor([float(room)], dtype=torch.float64, device=spend.device)
        place = int(torch.searchsorted(spend, goal, right=True))
        room -= int(spend[place - 1]) if place else 0
        inside = (key == bins - 1 - place).nonzero().squeeze(1)
        code, cost = code[inside], cost[inside]


def _lambdas(ratio: float, b: int, dtype: torch.dtype, scale: float) -> tuple[float, float]:
    """The largest abs(w) of this dtype with (scale·w)²/b < ratio, and the largest with ≤ ratio."""
    # λ = √(T·b), then its neighbours: the bits of non-negative floats order as integers
    guess = torch.tensor([math.sqrt(ratio * b) / scale], dtype=torch.float64).to(dtype)
    code = guess.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    code = (code + torch.arange(-4, 5, dtype=code.dtype)).clamp_(min=0)
    near = code.view(dtype)  # (9,), past infinity lie NaN, which no comparison accepts
    ratios = (near.double() * scale).square_().div_(b)
    keep, drop = near[ratios < ratio], near[ratios <= ratio]
    return float(keep[-1]) if len(keep) else 0.0, float(drop[-1]) if len(drop) else 0.0


def _write(w: Tensor, out: Tensor, layer: int, cut: _Cut, keep: float, drop: float) -> None:
    """Write one layer: abs(w) > ``keep`` where ties stay, abs(w) > ``drop`` where they go."""
    if cut.ratio == 0:
        out.copy_(w)
    elif layer != cut.layer or cut.ties == 0:
        torch.hardshrink(w, keep if layer < cut.layer else drop, out=out)
    else:
        flat = w.reshape(-1)
        size = flat.abs()
        tied = size.gt(keep).logical_and_(size.le(drop)).nonzero()
        end = int(tied[cut.ties - 1]) + 1
        parts = [torch.hardshrink(flat[:end], keep), torch.hardshrink(flat[end:], drop)]
        out.copy_(torch.cat(parts).view(w.shape))


def _energy(tensors: Sequence[Tensor]) -> float:
    """Σ w² in float64."""
    buffer = torch.empty(CHUNK, dtype=torch.float64)
    sums = [0.0]
    for _, chunk in _chunks([t.detach().reshape(-1) for t in tensors]):
        d = buffer[: chunk.numel()].copy_(chunk)
        sums.append(float(torch.dot(d, d)))
    return math.fsum(sums)


def _scale(flat: list[Tensor]) -> float:
    """A power of two that keeps the squares of float64 weights from under- and overflow."""
    tops = [w.abs().amax() for w in flat if w.dtype == torch.float64 and w.numel()]
    top = float(torch.stack(tops).amax()) if tops else 0.0
    if top == 0 or not math.isfinite(top):
        return 1.0
    return math.ldexp(1.0, min(1000, 500 - math.frexp(top)[1]))


def _integers(values: Sequence[int] | Tensor, name: str) -> list[int]:
    values = values.tolist() if isinstance(values, Tensor) else list(values)
    try:
        return [operator.index(v) for v in values]
    except TypeError:
        raise ValueError(f"{name} must be integers, got {values}; round them first") from None


def _checked_bitwidths(bitwidths: Sequence[int] | Tensor, layers: int) -> list[int]:
    bits = _integers(bitwidths, "bitwidths")
    if len(bits) != layers:
        raise ValueError(f"{len(bits)} bitwidths for {layers} layers; give one for each layer")
    for i, b in enumerate(bits):
        if not 1 <= b <= MAX_BITWIDTH:
            raise ValueError(
                f"the bitwidth of layer {i} is {b}, which is not in 1..{MAX_BITWIDTH}; "
                "to drop a layer, leave it out"
            )
    return bits


def _checked_budget(budget: int) -> int:
    (budget,) = _integers([budget], "the budget in bits")
    if budget < 0:
        raise ValueError(f"the budget is {budget} bits; it must be 0 or more")
    return budget


def _check_floating(weights: Sequence[Tensor]) -> None:
    for i, w in enumerate(weights):
        if not w.is_floating_point():
            raise ValueError(f"layer {i} has dtype {w.dtype}; convert it to a floating dtype")


def _check_out(out: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    if len(out) != len(weights):
        raise ValueError(f"out has {len(out)} tensors for {len(weights)} layers; give one for each")
    for i, (o, w) in enumerate(zip(out, weights, strict=True)):
        if (o.shape, o.dtype, o.device) != (w.shape, w.dtype, w.device):
            raise ValueError(
                f"out[{i}] is {tuple(o.shape)} {o.dtype} on {o.device}, layer {i} is "
                f"{tuple(w.shape)} {w.dtype} on {w.device}; allocate it with empty_like"
            )


def _check_finite(flat: Sequence[Tensor]) -> None:
    bad = {i: int((~w.isfinite()).sum()) for i, w in enumerate(flat)}
    bad = {i: n for i, n in bad.items() if n}
    if bad:
        where = ", ".join(f"{n} in layer {i}" for i, n in bad.items())
        raise ValueError(
            f"NaN or infinite weights: {where}; they have no projection, find where they came from"
        )


# ------------------------------------------------------------- fixed sparsity: which bitwidths


class _Option(NamedTuple):
    bits: int  # cost
    error: float
    width: int  # position among the bitwidths


class _Step(NamedTuple):
    """One increment along a layer's convex hull."""

    density: Fraction  # error saved per bit
    layer: int
    bits: int
    option: _Option  # where it leads


def choose_bitwidths(
    errors: Tensor,
    nonzeros: Sequence[int] | Tensor,
    *,
    budget: int,
    bitwidths: Sequence[int] = range(1, 9),
    exact: bool = False,
) -> Choice:
    """Give each layer the bitwidth that leaves the least quantization error within the budget.

    Solves  min Σᵢ E(i, bᵢ)  s.t.  Σᵢ bᵢ·nnzᵢ ≤ budget, one bᵢ a layer: a multiple-choice knapsack.

    Greedy: every layer starts at its cheapest choice, and the increments of all layers are taken by
    error saved per bit until one does not fit, which is the paper's rule. Its premise, that a
    layer's increments come sorted, holds on convex curves only, so choices above the lower convex
    hull of (bits, error) are left out of this part. What the budget has left is then spent one
    upgrade after another, hull or not, on the largest error saved per bit among those that fit.
    The result is never worse than the paper's, and ``error - lower_bound`` bounds what is lost.
    With ``exact`` it is the optimum, by dynamic programming over integer bits; then
    ``lower_bound`` equals ``error``.

    Parameters
    ----------
    errors : (layers, widths) squared errors; +inf marks a choice that is not offered.
    nonzeros : (layers,) weights that pay; a layer with none costs nothing, and gets the smallest
        error, the narrower bitwidth where equal.
    budget : bits for all layers together, a non-negative integer.
    bitwidths : (widths,) the candidates in bits, distinct positive integers.
    exact : return the optimum.

    Greedy: O(n log n) for n = layers·widths. Exact: exponential at worst; bounds leave a few
    thousand states for tens of layers.

    Raises ``ValueError`` for a budget below the cheapest choices (it says how much they need), for
    NaN or -inf errors, a layer without any choice, and shapes that do not match.

    Yang, Gui, Zhu, Liu (CVPR 2020), Section 3.4, Definition 1, Proposition 2; Sinha and Zoltners
    (1979) for the dominated choices and the bound.
    """
    widths = _checked_widths(bitwidths)
    counts = _checked_nonzeros(nonzeros)
    budget = _checked_budget(budget)
    groups = _groups(_checked_errors(errors, len(counts), len(widths)), counts, widths)
    cheapest = sum(group[0].bits for group in groups)
    if cheapest > budget:
        raise ValueError(
            f"the budget is {budget} bits, but the cheapest choice of every layer needs "
            f"{cheapest}; raise the budget, prune more or offer narrower bitwidths"
        )
    choice, bound, density = _greedy(groups, budget)
    if exact:
        choice = _optimum(groups, budget, choice, density)
    error = math.fsum(o.error for o in choice)
    return Choice(
        bitwidths=torch.tensor([widths[o.width] for o in choice], dtype=torch.int64),
        error=error,
        bits=sum(o.bits for o in choice),
        lower_bound=error if exact else min(error, bound),
    )


def _groups(errors: list[list[float]], counts: list[int], widths: list[int]) -> list[list[_Option]]:
    """Per layer the choices worth considering: more bits only for less error."""
    groups = []
    for i, (row, n) in enumerate(zip(errors, counts, strict=True)):
        options = [_Option(b * n, e, j) for j, (b, e) in enumerate(zip(widths, row, strict=True))]
        options = sorted(
            (o for o in options if o.error < math.inf),
            key=lambda o: (o.bits, o.error, widths[o.width]),
        )
        if not options:
            raise ValueError(f"layer {i} has no finite error; offer it at least one bitwidth")
        group: list[_Option] = []
        for o in options:
            if not group or o.error < group[-1].error:
                group.append(o)
        groups.append(group)
    return groups


def _steps(groups: list[list[_Option]]) -> list[_Step]:
    """The increments along all hulls by error saved per bit; those of a layer stay in order."""
    steps = []
    for layer, group in enumerate(groups):
        hull: list[_Option] = []
        for o in group:
            # fractions, because a rounded slope could order two increments of a layer wrongly
            while len(hull) > 1 and _slope(hull[-2], hull[-1]) < _slope(hull[-1], o):
                hull.pop()
            hull.append(o)
        steps += [_Step(_slope(a, b), layer, b.bits - a.bits, b) for a, b in pairwise(hull)]
    return sorted(steps, key=lambda s: (-s.density, s.layer))


def _slope(a: _Option, b: _Option) -> Fraction:
    # (ρⱼ − ρⱼ₋₁)/(ωⱼ − ωⱼ₋₁), with ρ = −E
    return (Fraction(a.error) - Fraction(b.error)) / (b.bits - a.bits)


def _greedy(
    groups: list[list[_Option]], budget: int
) -> tuple[list[_Option], float, Fraction | None]:
    """The choice, the optimum of the LP relaxation, and the density at which the budget runs out.

    The density is None if every increment fits; then the choice is the optimum.
    """
    choice = [group[0] for group in groups]
    left = budget - sum(o.bits for o in choice)
    for step in _steps(groups):
        if step.bits > left:
            break
        choice[step.layer] = step.option
        left -= step.bits
    else:
        return choice, math.fsum(o.error for o in choice), None
    # LP relaxation: the fraction of this increment that the bits left still pay for
    bound = sum((Fraction(o.error) for o in choice), Fraction(0)) - step.density * left
    while True:
        upgrades = [
            (_slope(choice[i], o), -i, o)
            for i, group in enumerate(groups)
            for o in group
            if 0 < o.bits - choice[i].bits <= left
        ]
        if not upgrades:
            break
        _, i, option = max(upgrades)
        left -= option.bits - choice[-i].bits
        choice[-i] = option
    return choice, _down(bound), step.density


def _down(value: Fraction) -> float:
    """The largest float64 not above a fraction, so that a bound stays one."""
    rounded = float(value)
    return rounded if Fraction(rounded) <= value else math.nextafter(rounded, -math.inf)


def _optimum(
    groups: list[list[_Option]], budget: int, incumbent: list[_Option], density: Fraction | None
) -> list[_Option]:
    """Dynamic programming over the Pareto front of (bits, error), layer by layer.

    A partial choice survives if no other has fewer bits and less error, and if the LP bound of its
    completion does not exceed the incumbent.
    """
    if density is None:
        return incumbent
    # errors enter as differences from each layer's least, so that a tolerance means the same
    # whatever the common part is; it only lets more states live, never fewer
    least = [group[-1].error for group in groups]
    price = float(density)
    goal = math.fsum(o.error - e for o, e in zip(incumbent, least, strict=True))
    goal += 1e-9 * goal + 1e-12 * price * budget

    # reduced costs: E + λ·bits above its layer's minimum is lost whoever else is chosen
    pairs = zip(groups, least, strict=True)
    reduced = [[o.error - e + price * o.bits for o in g] for g, e in pairs]
    relaxed = math.fsum(min(r) for r in reduced) - price * budget
    kept = [
        [o for o, r in zip(g, row, strict=True) if relaxed + r - min(row) <= goal]
        for g, row in zip(groups, reduced, strict=True)
    ]
    order = sorted(range(len(groups)), key=lambda i: (len(kept[i]) > 1, -kept[i][-1].bits))
    bits, errors = np.zeros(1, np.int64), np.zeros(1)
    trail = []
    for place, i in enumerate(order):
        costs = np.array([o.bits for o in kept[i]], np.int64)
        gains = np.array([o.error - least[i] for o in kept[i]])
        bits = (bits[:, None] + costs).ravel()  # (states·options,)
        errors = (errors[:, None] + gains).ravel()
        rest = [kept[j] for j in order[place + 1 :]]
        alive = bits <= budget - sum(g[0].bits for g in rest)
        floor = _relaxation(rest, [least[j] for j in order[place + 1 :]], budget - bits)
        alive = np.flatnonzero(alive & (errors + floor <= goal))
        alive = alive[np.lexsort((errors[alive], bits[alive]))]
        best = np.minimum.accumulate(errors[alive])
        alive = alive[np.r_[True, errors[alive][1:] < best[:-1]]]
        trail.append((i, alive, len(costs)))
        bits, errors = bits[alive], errors[alive]

    choice = list(incumbent)
    state = len(bits) - 1  # a front: its last state has the least error
    for i, alive, options in reversed(trail):
        state, option = divmod(int(alive[state]), options)
        choice[i] = kept[i][option]
    return choice


def _relaxation(groups: list[list[_Option]], least: list[float], budgets: np.ndarray) -> np.ndarray:
    """LP optimum of the groups' errors above their least, for many budgets at once."""
    steps = _steps(groups)
    base = math.fsum(g[0].error - e for g, e in zip(groups, least, strict=True))
    bits = np.cumsum([sum(g[0].bits for g in groups)] + [s.bits for s in steps])
    saved = np.cumsum([0.0] + [float(s.density * s.bits) for s in steps])
    return base - np.interp(budgets, bits.astype(np.float64), saved)


def _checked_widths(bitwidths: Sequence[int]) -> list[int]:
    widths = _integers(bitwidths, "bitwidths")
    if not widths or min(widths) < 1 or len({*widths}) < len(widths):
        raise ValueError(f"bitwidths are {widths}; give one or more distinct integers from 1 up")
    return widths


def _checked_nonzeros(nonzeros: Sequence[int] | Tensor) -> list[int]:
    counts = _integers(nonzeros, "nonzeros")
    for i, n in enumerate(counts):
        if n < 0:
            raise ValueError(f"layer {i} has {n} nonzeros; a count is 0 or more")
    return counts


def _checked_errors(errors: Tensor, layers: int, widths: int) -> list[list[float]]:
    errors = torch.as_tensor(errors, dtype=torch.float64).detach()
    if errors.shape != (layers, widths):
        raise ValueError(
            f"errors has shape {tuple(errors.shape)}; {layers} layers and {widths} bitwidths need "
            f"({layers}, {widths})"
        )
    bad = errors.isnan() | errors.isneginf()
    if bad.any():
        i, j = bad.nonzero()[0].tolist()
        raise ValueError(
            f"errors[{i}, {j}] is {float(errors[i, j])}; an error is finite, or +inf for a choice "
            "that is not offered"
        )
    return errors.tolist()
