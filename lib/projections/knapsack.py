"""ADMM's projection of W (eq. 8): a 0-1 knapsack over every weight of every layer.

With the bitwidths fixed it says which weights stay (Yang, Gui, Zhu, Liu, CVPR 2020, Section 3.3).
Its counterpart, which bitwidth each layer gets, is in ``multiple_choice``.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.projections import knapsack_gpu
from lib.projections.checks import (
    check_finite,
    check_floating,
    integers,
    one_each,
    shaped,
    whole,
)
from lib.projections.prefix import (
    MARGINS,
    Cut,
    Items,
    bracket,
    cut_among,
    exponent,
    inside,
    items_of,
    lambdas_of,
    sample_of,
    strided_sample,
)

CHUNK = 1 << 19  # weights scanned at a time: a multiple of 8; 5 MB with a buffer and two masks
DIRECT = 1 << 16  # with fewer weights than this, the guess costs more than it saves
MAX_BITWIDTH = 64


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
    weights : sequence of Tensor
        Floating, of any shapes, on one device.
    bitwidths : sequence of int or Tensor
        Bits that a nonzero weight of each layer costs, (layers,) integers from 1 to 64.
    budget : int
        Bits for all layers together, 0 or more.
    out : sequence of Tensor, optional
        Tensors to write to, of the same shapes and dtypes; may be the weights themselves. Untouched
        when the input is refused. Default: new tensors.

    Returns
    -------
    Kept
        The projection, its bits, and how far from the optimum it may be.

    Raises
    ------
    ValueError
        For NaN or infinite weights, a negative or fractional budget, a bitwidth out of range, and
        lists that do not match.

    Notes
    -----
    Linear in the number of weights, without a sort. On the CPU a sample brackets the threshold, one
    reading pass counts what lies above the bracket and collects what lies inside, one pass writes;
    16-bit weights are copied to float32 for it. On a GPU :mod:`lib.projections.knapsack_gpu` does
    the same in some thirty launches and three waits, whatever the number of layers. Should two
    brackets miss, or the weights be few or nearly all alike, every weight is a candidate (about 50
    bytes per weight). A float64 weight below 2⁻¹⁰³⁷ of the largest counts as zero.

    Yang, Gui, Zhu, Liu (CVPR 2020), Section 3.3, eq. 8 and 9, Proposition 1.
    """
    weights = [w.detach() for w in weights]
    drop = "to drop a layer, leave it out"
    layers = len(weights)
    bits = integers(bitwidths, "bitwidths", layers=layers, low=1, high=MAX_BITWIDTH, remedy=drop)
    budget = whole("the budget in bits", budget)
    check_floating(weights)
    kept = [torch.empty_like(w) for w in weights] if out is None else list(out)
    one_each("out", kept, layers)
    for i, (o, w) in enumerate(zip(kept, weights, strict=True)):
        shaped(f"out[{i}]", o, w.shape, w.dtype, remedy="allocate it with empty_like")
    flat = [w.reshape(-1) for w in weights]
    scale = _scale(flat)
    cut = None
    if _for_gpu(weights):
        cut = knapsack_gpu.project(flat, bits, budget, scale, [o.detach() for o in kept])
    if cut is None:
        cut = _search(flat, bits, budget, scale)
        lambdas = {t: lambdas_of(cut.ratio, bits, t, scale) for t in {w.dtype for w in weights}}
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


def _for_gpu(weights: list[Tensor]) -> bool:
    many = sum(w.numel() for w in weights) > DIRECT
    return many and any(w.device.type != "cpu" for w in weights)


def _search(flat: list[Tensor], bits: list[int], budget: int, scale: float) -> Cut:
    """Find the cut; raise for weights that are not finite."""
    size = sum(w.numel() for w in flat)
    if size > DIRECT and all(w.device.type == "cpu" for w in flat):
        wide = [(w.float() if w.dtype.itemsize == 2 else w).numpy() for w in flat]
        sample = sample_of(*strided_sample(wide), bits, scale)
        for margin in MARGINS:
            low, high = bracket(sample, bits, budget, margin)
            cut = cut_among(_scan(wide, bits, scale, low, high), bits, budget)
            if inside(cut, low, high):
                return cut
    cut = cut_among(_all_items(flat, bits, scale), bits, budget)
    assert cut is not None
    return cut


def _scan(flat: list[np.ndarray], bits: list[int], scale: float, low: float, high: float) -> Items:
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
    return items_of(size, bits, scale, counts, above)


def _all_items(flat: list[Tensor], bits: list[int], scale: float) -> Items:
    """Every weight as an item; the whole network in a few operations, on any device."""
    values = torch.cat([w.double() for w in flat]) if flat else torch.zeros(0, dtype=torch.float64)
    items = items_of(values, bits, scale, [w.numel() for w in flat], [0] * len(flat))
    if not bool(items.ratio.isfinite().all()):
        check_finite(flat)
    return items


def _write(w: Tensor, out: Tensor, layer: int, cut: Cut, keep: float, drop: float) -> None:
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
    e = exponent(flat)
    return 1.0 if e is None else math.ldexp(1.0, min(1000, 500 - e))
