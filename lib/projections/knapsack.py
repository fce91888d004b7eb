"""With the bitwidths fixed, which weights stay: a 0-1 knapsack over every weight of every layer.

Its counterpart, which bitwidth each layer gets, is in ``multiple_choice``.
"""

import math
import operator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

CHUNK = 1 << 19  # weights scanned at a time: a multiple of 8; 5 MB with a buffer and two masks
SAMPLE = 1 << 17  # weights drawn to guess the threshold
DIRECT = 1 << 16  # with fewer weights than this, the guess costs more than it saves
KEY_SHIFT = 43  # a sampled ratio keeps its 11 exponent and 9 leading mantissa bits
KEYS = 1 << 17  # keys told apart, from the largest down: 256 powers of two
RADIX = 16  # bits of the ratio that each round of the exact selection settles
MARGINS = (2.5, 30.0)  # standard errors of the sample on each side, first and second try
SLIVER = 2.0**-40  # float64 rounding of a threshold and of a ratio is far below this
MAX_BITWIDTH = 64

Vector = TypeVar("Vector", np.ndarray, Tensor)


class Kept(NamedTuple):
    """What ``project_fixed_bitwidth`` returns; all but the weights lies on the CPU.

    The two methods read the weights: call them before the weights change.
    """

    weights: list[Tensor]  # the projection, shapes and dtypes of the input
    bits: Tensor  # () int64, Σ bᵢ·‖Wᵢ‖₀
    gap: Tensor  # () float64, no other choice has this much more profit
    counts: Tensor  # (layers,) int64, ‖Wᵢ‖₀

    def profit(self) -> Tensor:
        """() float64, Σ w² over the kept."""
        norms = [torch.linalg.vector_norm(w, dtype=torch.float64).cpu() for w in self.weights]
        return torch.stack([torch.zeros_like(self.gap), *norms]).square().sum()

    def upper_bound(self) -> Tensor:
        """() float64, the optimum of the LP relaxation."""
        return self.profit() + self.gap


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
    ``upper_bound()``, the LP relaxation's, which is ``gap`` above ``profit()``, and ``gap`` is less
    than the square of the one weight that no longer fitted. The prefix itself is exact: ratios are
    compared in float64 and bits are counted as integers.

    Parameters
    ----------
    weights : floating tensors of any shapes on one device.
    bitwidths : bits that a nonzero weight of each layer costs, (layers,) integers from 1 to 64.
    budget : bits for all layers together, a non-negative integer.
    out : tensors to write to, of the same shapes and dtypes; may be the weights themselves.
        Untouched when the input is refused. Default: new tensors.

    Linear in the number of weights, without a sort. On the CPU a sample brackets the threshold, one
    reading pass counts what lies above the bracket and collects what lies inside, one pass writes;
    16-bit weights are copied to float32 for it. On other devices, or should two brackets miss,
    every weight is a candidate (about 50 bytes a weight). A float64 weight below 2⁻¹⁰³⁷ of the
    largest counts as zero.

    Raises ``ValueError`` for NaN or infinite weights, a negative or fractional budget, a bitwidth
    out of range, and lists that do not match.

    Yang, Gui, Zhu, Liu (CVPR 2020), Section 3.3, eq. 8 and 9, Proposition 1.
    """
    weights = [w.detach() for w in weights]
    bits = _checked_bitwidths(bitwidths, len(weights))
    budget = checked_budget(budget)
    check_floating(weights)
    if out is not None:
        _check_out(out, weights)
    flat = [w.reshape(-1) for w in weights]
    scale = _scale(flat)
    cut = _search(flat, bits, budget, scale)

    kept = [torch.empty_like(w) for w in weights] if out is None else list(out)
    lambdas = {t: _lambdas(cut.ratio, bits, t, scale) for t in {w.dtype for w in weights}}
    for i, (w, o) in enumerate(zip(weights, kept, strict=True)):
        _write(w, o.detach(), i, cut, *lambdas[w.dtype][i])

    spent = sum(b * n for b, n in zip(bits, cut.counts, strict=True))
    # LP relaxation: the prefix, then the fraction of the next weight that the budget still holds
    gap = (budget - spent) * cut.ratio / scale / scale if cut.ratio else 0.0
    return Kept(
        weights=kept,
        bits=torch.tensor(spent, dtype=torch.int64),
        gap=torch.tensor(gap, dtype=torch.float64),
        counts=torch.tensor(cut.counts, dtype=torch.int64),
    )


class _Items(NamedTuple):
    """The weights among which the threshold lies."""

    ratio: Tensor  # (items,) float64, (scale·w)²/b, layer after layer
    cost: Tensor  # (items,) float64, b
    counts: list[int]  # items, per layer
    above: list[int]  # per layer, how many weights beyond all items are kept without a question


class _Cut(NamedTuple):
    """Where the prefix ends, in the order (ratio descending, layer, index)."""

    ratio: float  # T, of the first item that does not fit; 0 if all fit
    layer: int  # its layer: ties at T stay in the layers before, and go in the layers after
    ties: int  # ties at T that stay in its own layer
    counts: list[int]  # weights kept, per layer


def _search(flat: list[Tensor], bits: list[int], budget: int, scale: float) -> _Cut:
    """Find the cut; raise for weights that are not finite."""
    size = sum(w.numel() for w in flat)
    if size > DIRECT and all(w.device.type == "cpu" for w in flat):
        wide = [(w.float() if w.dtype.itemsize == 2 else w).numpy() for w in flat]
        for margin in MARGINS:
            low, high = _bracket(wide, bits, budget, scale, margin)
            cut = _cut(_scan(wide, bits, scale, low, high), bits, budget)
            if cut is not None and (
                (low == 0 or cut.ratio > low * (1 + SLIVER)) and cut.ratio < high * (1 - SLIVER)
            ):
                return cut
    cut = _cut(_all_items(flat, bits, scale), bits, budget)
    assert cut is not None
    return cut


def _bracket(
    flat: list[np.ndarray], bits: list[int], budget: int, scale: float, margin: float
) -> tuple[float, float]:
    """Two ratios between which T probably lies, from every k-th weight of every layer."""
    drawn, numbers = strided_sample(flat)
    counts = [len(d) for d in drawn]
    # bits that one drawn weight stands for
    share = [b * n for b, n in zip(bits, numbers, strict=True)]
    ratio = np.concatenate(drawn, dtype=np.float64)
    ratio *= scale
    with np.errstate(over="ignore"):  # beside infinite weights, which are refused later
        np.square(ratio, out=ratio)
    ratio /= np.repeat(np.array(bits, np.float64), counts)
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


def strided_sample(flat: list[Vector]) -> tuple[list[Vector], list[float]]:
    """Every k-th weight of every layer, and how many weights of its layer each stands for."""
    size = sum(map(len, flat))
    stride = max(1, size // SAMPLE) | 1  # odd: rows of even length are not hit in one column only
    drawn = [w[min(stride // 2, len(w) // 2) :: stride] for w in flat]
    return drawn, [len(w) / max(1, len(d)) for w, d in zip(flat, drawn, strict=True)]


def _scan(flat: list[np.ndarray], bits: list[int], scale: float, low: float, high: float) -> _Items:
    """Count the weights with ratio > high and collect those in between, in one reading pass.

    NumPy, because its comparisons to bool are nine times as fast as torch's (NumPy 2, torch 2.11,
    one thread); each thread takes a chunk through all operations and waits for no other.
    """
    # λ = √(ratio·b), rounded outwards to the weights' own precision
    with np.errstate(over="ignore"):  # an edge may be infinite in float32, its weights are not
        edges = np.sqrt(np.outer([low, high], bits)) / scale  # (2, layers)
        outwards = {w.dtype: np.array([[0], [np.inf]], w.dtype) for w in flat}
        lambdas = {t: np.nextafter(edges.astype(t), o).T.tolist() for t, o in outwards.items()}
    chunks = iter(
        [
            (layer, *lambdas[w.dtype][layer], w[start : start + CHUNK])
            for layer, w in enumerate(flat)
            for start in range(0, w.size, CHUNK)
        ]
    )

    def work() -> list[tuple[int, bool, int, np.ndarray]]:
        buffers = {t: np.empty(CHUNK, t) for t in lambdas}
        masks = np.empty((2, CHUNK), bool)
        done = []
        for layer, small, large, chunk in chunks:  # shared: each thread takes the next
            n = len(chunk)
            size = np.abs(chunk, out=buffers[chunk.dtype][:n])
            top = size.max()  # NaN if any value is
            np.greater(size, large, out=masks[0, :n])
            np.greater(size, small, out=masks[1, :n])
            masks[:, n : n + 7] = False
            # few lie inside, where the masks differ: compare eight at once, then open those that do
            above, either = masks[:, : -(-n // 8) * 8].view(np.uint64)
            words = np.flatnonzero(above != either)
            inside = np.flatnonzero((above[words] ^ either[words]).view(bool))
            found = size[8 * words[inside >> 3] + (inside & 7)]
            count = int(np.count_nonzero(above.view(bool)))
            done.append((layer, math.isfinite(top), count, found))
        return done

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(work) for _ in range(threads - 1)]
        done = sorted(chain(work(), *(o.result() for o in others)), key=lambda d: d[0])
    if not all(finite for _, finite, _, _ in done):
        check_finite([torch.from_numpy(w) for w in flat])
    above, counts = [0] * len(flat), [0] * len(flat)
    for layer, _, n, found in done:
        above[layer] += n
        counts[layer] += len(found)
    size = torch.from_numpy(np.concatenate([found for *_, found in done]))
    return _items(size, bits, scale, counts, above)


def _all_items(flat: list[Tensor], bits: list[int], scale: float) -> _Items:
    """Every weight as an item; the whole network in a few operations, on any device."""
    values = torch.cat([w.double() for w in flat]) if flat else torch.zeros(0, dtype=torch.float64)
    items = _items(values, bits, scale, [w.numel() for w in flat], [0] * len(flat))
    if not bool(items.ratio.isfinite().all()):
        check_finite(flat)
    return items


def _items(
    values: Tensor, bits: list[int], scale: float, counts: list[int], above: list[int]
) -> _Items:
    """The items of these weights, layer after layer; float64 values are overwritten."""
    # torch.repeat_interleave takes 1 to 70 ns a value, the more the busier the other cores; this 1
    # to 2 (torch 2.11, 2 threads)
    cost = torch.empty(len(values), dtype=torch.float64, device=values.device)
    for part, b in zip(cost.split(counts), bits, strict=True):
        part.fill_(b)
    return _Items(values.double().mul_(scale).square_().div_(cost), cost, counts, above)


def _cut(items: _Items, bits: list[int], budget: int) -> _Cut | None:
    """The prefix's end among the items; None if what lies above them is over the budget."""
    room = budget - sum(b * n for b, n in zip(bits, items.above, strict=True))
    if room < 0:
        return None
    critical = _critical(items, room)
    kept = _counts(items.ratio > critical, items.counts)
    room -= sum(b * n for b, n in zip(bits, kept, strict=True))
    counts = [n + m for n, m in zip(items.above, kept, strict=True)]
    if critical == 0:
        return _Cut(0.0, len(bits), 0, counts)
    tied = _counts(items.ratio == critical, items.counts)
    for i, n in enumerate(tied):  # equal ratios stay in the order of (layer, index)
        ties = min(n, room // bits[i])
        counts[i] += ties
        room -= ties * bits[i]
        if ties < n:
            return _Cut(critical, i, ties, counts)
    raise AssertionError("the critical item fits")


def _counts(mask: Tensor, lengths: list[int]) -> list[int]:
    """How many are true, per layer."""
    counts = [part.count_nonzero() for part in mask.split(lengths)]
    return torch.stack(counts).tolist() if counts else []


def _critical(items: _Items, room: int) -> float:
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


def _lambdas(
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


def check_floating(weights: Sequence[Tensor]) -> None:
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


def check_finite(flat: Sequence[Tensor]) -> None:
    if not flat or bool(torch.stack([w.isfinite().all() for w in flat]).all()):
        return  # one wait for the device; which layer is asked only where there is something to say
    bad = {i: int((~w.isfinite()).sum()) for i, w in enumerate(flat)}
    bad = {i: n for i, n in bad.items() if n}
    if bad:
        where = ", ".join(f"{n} in layer {i}" for i, n in bad.items())
        raise ValueError(
            f"NaN or infinite weights: {where}; they have no projection, find where they came from"
        )
