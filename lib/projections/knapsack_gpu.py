"""The 0-1 knapsack over all weights on a GPU: some thirty launches and three waits, no upload.

Layers of the same bitwidth lie side by side in one buffer, so that a comparison or a threshold is
one launch a bitwidth at most. A copy in bfloat16 of |w|/√b has the order of the ratios w²/b, to
rounding. It tells which weights are above the bracket for certain, which below, and which may be
inside; only those inside go to the host, with their own values, and the threshold is found among
them exactly, as on a CPU. The weights that are kept are the same ones, bit for bit.

Where many weights tie at the threshold, as quantized ones do, too many would be inside. The sample
shows the ratio at which they tie. Weights above it, and those that have it, are then counted layer
by layer with exact thresholds, in four waits.

Bytes read and written per float32 weight: 8 for the buffer, 8 for the copy and 2 for its largest,
12 for the two masks, their difference and sums, 8 for the threshold, 8 to hand the weights out, and
some more for each weight in the sample and inside the bracket.
"""

import itertools
import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from lib.projections.prefix import (
    MARGINS,
    Cut,
    Sample,
    bracket,
    cut_among,
    cut_at,
    inside,
    items_of,
    lambdas_of,
    sample_of,
    strided_sample,
)
from lib.projections.transfer import fetched

#: Places of bfloat16 that the bracket's edges are moved outwards in the copy. A size, cut off and
#: multiplied, is at most three places too small and one too large, and an edge is cut off too. One
#: place more keeps a threshold that is the lower edge itself inside.
DOWN, UP = -4, 2

#: A larger share of weights inside the bracket is not worth collecting.
FEW = 1 / 8

#: Where a larger share of the sample has one ratio, that of the threshold, no bracket is needed.
TIED = 1 / 64

#: Weights that are counted together.
BLOCK = 32

#: A sample of at most every so manyth weight: it costs 8 bytes per weight that is drawn.
APART = 16


def project(
    flat: list[Tensor], bits: list[int], budget: int, scale: float, out: list[Tensor]
) -> Cut | None:
    """Writes the weights that stay into ``out``; returns the cut, or ``None`` with nothing written.

    ``None`` where two brackets miss, or hold too many, and where weights are not finite: the caller
    goes through all of them. ``flat`` are contiguous vectors on one device.
    """
    layout = _Layout(flat, bits)
    drawn, numbers = strided_sample(flat, apart=APART)
    counts = [len(d) for d in drawn]
    host = _wide(torch.cat(drawn).cpu())  # the first wait
    parts = np.split(host.numpy(), np.cumsum(counts)[:-1])
    sample = sample_of(parts, numbers, bits, scale)

    values = layout.gathered(flat)  # (n,)
    found, tied = None, _tied_at(sample, bits, budget)
    if tied:
        found = _among_ties(values, layout, bits, budget, scale, tied)
    for margin in MARGINS:
        if found is None:
            low, high = bracket(sample, bits, budget, margin)
            found = _among_few(values, layout, bits, budget, scale, low, high)
    if found is None:
        return None
    cut, middle = found
    _write(values, layout, cut, middle, bits, scale)
    torch._foreach_copy_([out[i] for i in layout.order], layout.views(values, out))
    return cut


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype.itemsize > 2 else values.float()


def _upper(values: Tensor) -> Tensor:
    """A float32's upper half, a bfloat16 of which more digits are cut off; a view, no copy."""
    if values.dtype == torch.float64:
        return values
    return values.view(torch.bfloat16)[1::2]  # no GPU is big-endian


class _Layout:
    """Layers in the order of their bitwidths, and then of their numbers, in one buffer.

    Each begins at a multiple of ``BLOCK``, behind zeros, so that a layer is counted by blocks.
    """

    def __init__(self, flat: list[Tensor], bits: list[int]):
        self.order = sorted(range(len(flat)), key=lambda i: bits[i])
        self.bits = [bits[i] for i in self.order]
        self.lengths = [flat[i].numel() for i in self.order]
        self.blocks = [-(-length // BLOCK) for length in self.lengths]
        self.ends = (BLOCK * np.cumsum(self.blocks)).tolist()
        self.starts = [0, *self.ends[:-1]]

    def gathered(self, flat: list[Tensor]) -> Tensor:
        """The layers in one buffer."""
        zeros = flat[0].new_zeros(BLOCK)
        fills = [
            zeros[: BLOCK * n - length] for n, length in zip(self.blocks, self.lengths, strict=True)
        ]
        parts = zip((flat[i] for i in self.order), fills, strict=True)
        return _wide(torch.cat(list(itertools.chain.from_iterable(parts))))

    def split(self, buffer: Tensor) -> tuple[Tensor, ...]:
        """Each layer with the zeros behind it."""
        return buffer.split([BLOCK * n for n in self.blocks])

    def views(self, buffer: Tensor, out: list[Tensor]) -> list[Tensor]:
        parts = zip(self.order, self.lengths, self.split(buffer), strict=True)
        return [part[:length].view(out[i].shape) for i, length, part in parts]

    def sums(self, mask: Tensor) -> Tensor:
        """How many are true up to the end of each layer that has a weight in it or before it."""
        sums = mask.view(-1, BLOCK).sum(1, dtype=torch.int32).cumsum(0)
        return torch.stack([sums[end // BLOCK - 1] for end in self.ends if end])

    def counts(self, sums: np.ndarray) -> list[int]:
        """How many are true, per layer, from :meth:`sums`."""
        empty = len(self.ends) - len(sums)  # layers before the first weight
        counts = np.empty(len(self.ends), np.int64)
        counts[self.order] = np.diff(np.concatenate([np.zeros(1 + empty, np.int64), sums]))
        return counts.tolist()


def _among_few(values, layout, bits, budget, scale, low, high) -> tuple[Cut, int] | None:
    """The cut, and where its own layer's last tie that stays ends, from the few in the bracket."""
    # |w|·scale/√b
    sizes = _upper(values).abs()
    torch._foreach_mul_(layout.split(sizes), [scale / math.sqrt(b) for b in layout.bits])
    above = sizes > _edge(high, sizes.dtype, UP)
    # without a lower edge all that is not zero, however small
    either = sizes > _edge(low, sizes.dtype, DOWN) if low else values != 0
    few = above.ne(either).nonzero().squeeze(1)  # the second wait
    if len(few) > FEW * len(values):
        return None
    # the third
    top, sums, places, found = _fetched_mixed(sizes.amax(), layout.sums(above), few, values[few])
    if not math.isfinite(top[0]):
        return None
    layers = np.array(layout.order)[np.searchsorted(layout.ends, places, side="right")]
    by_layer = np.argsort(layers, kind="stable")
    places, layers = places[by_layer], layers[by_layer]
    inner = np.bincount(layers, minlength=len(bits)).tolist()
    items = items_of(torch.from_numpy(found[by_layer]), bits, scale, inner, layout.counts(sums))
    cut = cut_among(items, bits, budget)
    if not inside(cut, low * (1 - 2.0**-8), high):  # the edges of the copy lie further out
        return None
    tied = np.flatnonzero((items.ratio == cut.ratio).numpy() & (layers == cut.layer))
    return cut, int(places[tied[cut.ties - 1]]) + 1 if cut.ties else 0


def _tied_at(sample: Sample, bits: list[int], budget: int) -> float:
    """The ratio at which the budget ends in the sample, if a large share of it has it; else 0."""
    ratio, counts, numbers = sample
    b, number = (np.repeat(np.array(each, np.float64), counts) for each in (bits, numbers))
    order = np.argsort(-ratio)
    spend = (b * number)[order].cumsum()
    last = ratio[order[min(int(np.searchsorted(spend, budget, side="right")), len(spend) - 1)]]
    return float(last) if number[ratio == last].sum() > TIED * number.sum() else 0.0


def _among_ties(values, layout, bits, budget, scale, ratio) -> tuple[Cut, int] | None:
    """The same where ``ratio`` is guessed: right if the budget ends among the weights that have it.

    Compares with the exact thresholds, two launches a bitwidth.
    """
    thresholds = lambdas_of(ratio, bits, values.dtype, scale)
    sizes = values.abs()
    at_least, above = torch.empty(2, len(values), dtype=torch.bool, device=values.device)
    for mask, edge in ((at_least, 0), (above, 1)):
        runs = zip(layout.starts, layout.ends, layout.order, strict=True)
        for start, end, threshold in _joined((s, e, thresholds[i][edge]) for s, e, i in runs):
            torch.gt(sizes[start:end], threshold, out=mask[start:end])
    # the second wait
    both = torch.stack(torch.aminmax(_upper(values)))
    extremes, least, more = _fetched_mixed(both, layout.sums(at_least), layout.sums(above))
    if not np.isfinite(extremes).all():
        return None
    kept, all_kept = layout.counts(more), layout.counts(least)
    room = budget - sum(b * n for b, n in zip(bits, kept, strict=True))
    if room < 0:
        return None
    tied = [n - m for n, m in zip(all_kept, kept, strict=True)]
    cut = cut_at(ratio, kept, tied, bits, room)
    if cut is None:
        return None
    if cut.ties == 0:
        return cut, 0
    own = layout.order.index(cut.layer)
    part = slice(layout.starts[own], layout.ends[own])
    # the third, and the fourth for the number
    last = at_least[part].ne(above[part]).nonzero()[cut.ties - 1].item()
    return cut, part.start + last + 1


def _fetched_mixed(*parts: Tensor) -> list[np.ndarray]:
    """Vectors and numbers of the device, as int64 or float64, in one copy."""
    floating = [part.is_floating_point() for part in parts]
    wide = [
        part.view(-1).double().view(torch.int64) if f else part.long()
        for part, f in zip(parts, floating, strict=True)
    ]
    return [p.view(np.float64) if f else p for p, f in zip(fetched(wide), floating, strict=True)]


def _edge(ratio: float, dtype: torch.dtype, places: int) -> float:
    """√ratio as a number of ``dtype``, moved by so many places."""
    root = math.sqrt(ratio)
    if root == math.inf or dtype == torch.float64:
        return root * (1 + places * 2.0**-8)
    with np.errstate(over="ignore"):
        code = int(np.float32(root).view(np.int32)) >> 16
    # 0x7f80 is infinity: what lies beyond it is no number
    moved = np.int32(min(max(code + places, 0), 0x7F80) << 16)
    return float(moved.view(np.float32))


def _write(values: Tensor, layout: _Layout, cut: Cut, middle: int, bits, scale: float) -> None:
    """Makes zeros of the weights that go, in place: one launch for each run of equal thresholds."""
    if cut.ratio == 0:
        return
    thresholds = lambdas_of(cut.ratio, bits, values.dtype, scale)
    runs = []
    for layer, start, end in zip(layout.order, layout.starts, layout.ends, strict=True):
        keep, drop = thresholds[layer]
        if layer == cut.layer and cut.ties:
            runs += [(start, middle, keep), (middle, end, drop)]
        else:
            runs.append((start, end, keep if layer < cut.layer else drop))
    for start, end, threshold in _joined(runs):
        part = values[start:end]
        torch.hardshrink(part, threshold, out=part)


def _joined(runs: Iterable[tuple[int, int, float]]) -> Iterator[tuple[int, int, float]]:
    """(first, last + 1, threshold) with neighbours of one threshold made one."""
    for threshold, same in itertools.groupby(runs, key=lambda run: run[2]):
        parts = list(same)
        yield parts[0][0], parts[-1][1], threshold
