"""With the bitwidths fixed, which weights stay: a 0-1 knapsack over every weight of every layer.

Its counterpart, which bitwidth each layer gets, is in ``multiple_choice``.
"""

import math
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

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
    budget = checked_budget(budget)
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
    came from the other core's cache, and the next chunk's writes took six times as long (2 threads,
    25 million float32 weights).
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
    # torch.repeat_interleave took 25 ns a value on a CPU (torch 2.11, 2 threads), this about 1
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


def integers(values: Sequence[int] | Tensor, name: str) -> list[int]:
    values = values.tolist() if isinstance(values, Tensor) else list(values)
    try:
        return [operator.index(v) for v in values]
    except TypeError:
        raise ValueError(f"{name} must be integers, got {values}; round them first") from None


def _checked_bitwidths(bitwidths: Sequence[int] | Tensor, layers: int) -> list[int]:
    bits = integers(bitwidths, "bitwidths")
    if len(bits) != layers:
        raise ValueError(f"{len(bits)} bitwidths for {layers} layers; give one for each layer")
    for i, b in enumerate(bits):
        if not 1 <= b <= MAX_BITWIDTH:
            raise ValueError(
                f"the bitwidth of layer {i} is {b}, which is not in 1..{MAX_BITWIDTH}; "
                "to drop a layer, leave it out"
            )
    return bits


def checked_budget(budget: int) -> int:
    (budget,) = integers([budget], "the budget in bits")
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
