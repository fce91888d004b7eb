"""Where a prefix of weights ends, in the order (w²/b descending, layer, index), within a budget.

What the knapsack's ways of finding it have in common: a sample brackets the threshold, some way or
other collects the weights inside the bracket, and among those the end of the prefix is exact.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeGuard, TypeVar

import numpy as np
import torch
from torch import Tensor

SAMPLE = 1 << 17  # weights drawn to guess the threshold
KEY_SHIFT = 43  # a sampled ratio keeps its 11 exponent and 9 leading mantissa bits
KEYS = 1 << 17  # keys told apart, from the largest down: 256 powers of two
RADIX = 16  # bits of the ratio that each round of the exact selection settles
MARGINS = (2.5, 30.0)  # standard errors of the sample on each side, first and second try
SLIVER = 2.0**-40  # float64 rounding of a threshold and of a ratio is far below this

Vector = TypeVar("Vector", np.ndarray, Tensor)


class Items(NamedTuple):
    """The weights among which the threshold lies."""

    ratio: Tensor  # (items,) float64, (scale·w)²/b, layer after layer
    cost: Tensor  # (items,) float64, b
    counts: list[int]  # items, per layer
    above: list[int]  # per layer, how many weights beyond all items are kept without a question


class Cut(NamedTuple):
    """Where the prefix ends, in the order (ratio descending, layer, index)."""

    ratio: float  # T, of the first item that does not fit; 0 if all fit
    layer: int  # its layer: ties at T stay in the layers before, and go in the layers after
    ties: int  # ties at T that stay in its own layer
    counts: list[int]  # weights kept, per layer


class Sample(NamedTuple):
    """Some weights of every layer, to guess the threshold from."""

    ratio: np.ndarray  # (drawn,) float64, (scale·w)²/b, layer after layer
    counts: list[int]  # drawn, per layer
    numbers: list[float]  # per layer, how many weights each of them stands for


def sample_of(
    drawn: list[np.ndarray], numbers: list[float], bits: list[int], scale: float
) -> Sample:
    """The sample that :func:`strided_sample` drew."""
    counts = [len(d) for d in drawn]
    ratio = np.concatenate(drawn, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # not finite ones are refused later
        ratio *= scale
        np.square(ratio, out=ratio)
        ratio /= np.repeat(np.array(bits, np.float64), counts)
    return Sample(ratio, counts, numbers)


def bracket(sample: Sample, bits: list[int], budget: int, margin: float) -> tuple[float, float]:
    """Two ratios between which T probably lies."""
    ratio, counts, numbers = sample
    # bits that one drawn weight stands for
    share = [b * n for b, n in zip(bits, numbers, strict=True)]
    # non-negative floats order as their bits; a NaN may look negative, and is refused later
    code = ratio.view(np.int64) >> KEY_SHIFT
    top = int(code.max())
    key = np.minimum(top - code, KEYS - 1)
    spend = np.bincount(key, np.repeat(share, counts)).cumsum()  # largest first

    p = min(1.0, budget / float(spend[-1]))
    variance = sum(n * s * s for n, s in zip(counts, share, strict=True)) * p * (1 - p)
    slack = margin * (math.sqrt(variance) + max(share))
    goals = [budget - slack, budget + slack]
    end = len(spend) - 1
    first, last = np.minimum(np.searchsorted(spend, goals, side="right"), end).tolist()
    edges = np.maximum([top - last, top - first + 1], [0, 1]) << KEY_SHIFT
    low, high = edges.view(np.float64).tolist()
    # the last key stands for all that is smaller; and what was not drawn may be larger
    return 0.0 if last == end else low, math.inf if first == 0 else high


def exponent(flat: Sequence[Tensor]) -> int | None:
    """e of the largest float64 weight, which is below 2ᵉ and not below 2ᵉ⁻¹.

    None if all are zero, if one is not finite, or if there is none: only float64's squares and sums
    can leave its range, and the narrower dtypes need no pass to find it.
    """
    tops = [w.abs().amax() for w in flat if w.dtype == torch.float64 and w.numel()]
    top = float(torch.stack(tops).amax()) if tops else 0.0
    return math.frexp(top)[1] if 0 < top < math.inf else None


def strided_sample(flat: list[Vector], *, apart: int = 1) -> tuple[list[Vector], list[float]]:
    """Every k-th weight of every layer, and how many weights of its layer each stands for.

    Some ``SAMPLE`` of them, but no two nearer than ``apart``.
    """
    size = sum(map(len, flat))
    # odd: rows of even length are not hit in one column only
    stride = max(apart, size // SAMPLE) | 1
    drawn = [w[min(stride // 2, len(w) // 2) :: stride] for w in flat]
    return drawn, [len(w) / max(1, len(d)) for w, d in zip(flat, drawn, strict=True)]


def items_of(
    values: Tensor, bits: list[int], scale: float, counts: list[int], above: list[int]
) -> Items:
    """The items of these weights, layer after layer; float64 values are overwritten."""
    # torch.repeat_interleave takes 1 to 70 ns a value, the more the busier the other cores; this 1
    # to 2 (torch 2.11, 2 threads)
    cost = torch.empty(len(values), dtype=torch.float64, device=values.device)
    for part, b in zip(cost.split(counts), bits, strict=True):
        part.fill_(b)
    return Items(values.double().mul_(scale).square_().div_(cost), cost, counts, above)


def inside(cut: Cut | None, low: float, high: float) -> TypeGuard[Cut]:
    """Whether a cut among the items of a bracket is the cut among all weights."""
    if cut is None or not (low == 0 or cut.ratio > low * (1 + SLIVER)):
        return False
    return cut.ratio < high * (1 - SLIVER)


def cut_among(items: Items, bits: list[int], budget: int) -> Cut | None:
    """The prefix's end among the items; None if what lies above them is over the budget."""
    room = budget - sum(b * n for b, n in zip(bits, items.above, strict=True))
    if room < 0:
        return None
    critical = _critical(items, room)
    kept = _counts(items.ratio > critical, items.counts)
    room -= sum(b * n for b, n in zip(bits, kept, strict=True))
    counts = [n + m for n, m in zip(items.above, kept, strict=True)]
    if critical == 0:
        return Cut(0.0, len(bits), 0, counts)
    cut = cut_at(critical, counts, _counts(items.ratio == critical, items.counts), bits, room)
    assert cut is not None  # the critical item does not fit
    return cut


def cut_at(
    ratio: float, above: list[int], tied: list[int], bits: list[int], room: int
) -> Cut | None:
    """The prefix's end among the ties at ``ratio``; None if all of them fit into ``room`` bits.

    ``above`` and ``tied`` are the weights of a larger and of just this ratio, per layer.
    """
    counts = list(above)
    for i, n in enumerate(tied):  # equal ratios stay in the order of (layer, index)
        ties = min(n, room // bits[i])
        counts[i] += ties
        room -= ties * bits[i]
        if ties < n:
            return Cut(ratio, i, ties, counts)
    return None


def _counts(mask: Tensor, lengths: list[int]) -> list[int]:
    """How many are true, per layer."""
    counts = [part.count_nonzero() for part in mask.split(lengths)]
    return torch.stack(counts).tolist() if counts else []


def _critical(items: Items, room: int) -> float:
    """The largest ratio down to which, itself included, the items cost more than ``room``; else 0.

    It is 0, too, where only zero weights are too many: they come last, and are never kept.

    A radix selection: the bits of non-negative floats order as integers, so a histogram of the
    leading ones settles 16 bits of the answer and leaves one bin to look into. Costs are integers
    below 2⁵³, which float64 adds exactly and in any order.
    """
    if not items.counts:
        return 0.0
    if float(items.cost.sum()) <= room:
        return 0.0
    code, cost = items.ratio.view(torch.int64), items.cost
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


def lambdas_of(
    ratio: float, bits: list[int], dtype: torch.dtype, scale: float
) -> list[tuple[float, float]]:
    """Per layer, the largest abs(w) of this dtype with (scale·w)²/b < ratio, and that with ≤."""
    b = torch.tensor(bits, dtype=torch.float64)[:, None]
    # λ = √(T·b), then its neighbours: the bits of non-negative floats order as integers
    guess = (ratio * b).sqrt_().div_(scale).to(dtype)
    code = guess.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    code = (code + torch.arange(-4, 5, dtype=code.dtype)).clamp_(min=0)
    near = code.view(dtype).double()  # (layers, 9), beyond infinity NaN: no comparison is true
    ratios = (near * scale).square_().div_(b)
    largest = [near.where(mask, 0).amax(1) for mask in (ratios < ratio, ratios <= ratio)]
    return torch.stack(largest, 1).tolist()
