"""Codebooks of a layer of many distinct values: k-means of uneven bins, then of all its values.

The bins' optimum (``kmeans``) is where Lloyd's iterations start. They run on the device, on the
sorted values' prefix sums, for all codebooks of all layers at once.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lib.projections.codebook.kmeans import Fit, Points, as_returned
from lib.projections.transfer import fetched

ROUNDS = 6  # of Lloyd's iterations on all values, after the dynamic programme on the bins
SCAN = 512  # row length of the blocked prefix sum
TRUSTED = 1e-8  # below this part of Σv², differences of prefix sums have no seven digits left


class Moments(NamedTuple):
    """What stays on the device for Lloyd's iterations."""

    mean: Tensor  # ()
    prefix: Tensor  # (n + 1,) float64, sums of v − mean over the sorted values
    squares: Any  # (n + 1,) float64, of (v − mean)², where errors are summed by them


def grid(x: Tensor, numbers: list[int], *, free_zero: bool) -> tuple[Moments, list[Tensor]]:
    """Cut the sorted values into bins; ranks of the cuts, prefix sums and squares at them."""
    # enough bins that the largest codebook's intervals are a few bins long each
    n, bins = x.numel(), 128 + 16 * numbers[-1]
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
        [torch.searchsorted(x, x.new_zeros(()), right=right) for right in (False, True)]
    )  # first value that is not negative, first that is positive
    ends = torch.arange(0, 2, device=x.device) * n
    ranks = torch.cat([ends, cuts, signs]).sort().values  # (bins + 3,)

    mean = x.new_zeros((), dtype=torch.float64) if free_zero else x.mean(dtype=torch.float64)
    # squares of the differences cancel less around the mean
    if x.device.type == "cpu":
        prefix, squares = (_sums_on_cpu(x, float(mean), squared=s) for s in (False, True))
    else:
        centred = x.to(torch.float64, copy=True).sub_(mean)
        prefix, squares = _prefix(centred), _prefix(centred.square_())
    moments = Moments(mean, prefix, squares if _errors_by_sums(x) else None)
    return moments, [mean.view(1), signs.double(), ranks.double(), prefix[ranks], squares[ranks]]


def bins_as_points(
    mean: np.ndarray, signs: np.ndarray, ranks: np.ndarray, totals: np.ndarray, squares: np.ndarray
) -> Points:
    """The bins of a `grid`, from what it says of them."""
    kept = np.append(np.diff(ranks) > 0, True)  # two cuts in one gap: a bin without values
    ranks = ranks[kept]
    negative, positive = np.searchsorted(ranks, signs).tolist()
    return Points(
        number=np.diff(ranks),
        total=np.diff(totals[kept]),
        square=np.diff(squares[kept]),
        mean=float(mean[0]),
        negative=negative,
        zero=positive - negative,
        value=None,
    )


def polished(
    ordered: list[Tensor],
    moments: list[Moments],
    starts: list[list[np.ndarray]],
    *,
    free_zero: bool,
) -> list[list[Fit]]:
    """Improve the centres on the sorted values; one transfer to the device, one back."""
    if not ordered:
        return []
    numbers = [len(codebooks) for codebooks in starts]
    most = max(len(centres) for codebooks in starts for centres in codebooks)
    table = np.full((len(starts), max(numbers), most + free_zero), np.inf)
    for layer, codebooks in zip(table, starts, strict=True):
        for row, centres in zip(layer, codebooks, strict=False):
            row[: len(centres)] = centres
            row[len(centres) :][:free_zero] = 0
    levels = torch.from_numpy(np.sort(table, axis=-1)).to(ordered[0].device)
    found = _lloyd(ordered, moments, levels, free_zero=free_zero)
    centres, counts, whole, trust = fetched([part.double() for part in found])
    errors = [e[:n] for e, n in zip(whole, numbers, strict=True)]
    # on a GPU one more transfer, where ADMM has nearly ended
    again = [i for i, (e, least) in enumerate(zip(errors, trust, strict=True)) if e.min() < least]
    direct = [
        _errors(ordered[i], found.levels[i, : numbers[i]], found.counts[i, : numbers[i]])
        for i in again
    ]
    for i, part in zip(again, fetched(direct), strict=True):
        errors[i] = part
    return [
        [
            Fit(float(e), as_returned(c[n > 0], free_zero=free_zero))
            for e, c, n in zip(each, centres[i], counts[i], strict=False)
        ]
        for i, each in enumerate(errors)
    ]


class _Polished(NamedTuple):
    levels: Tensor  # (layers, codebooks, levels) float64
    counts: Tensor  # (layers, codebooks, levels) how many of the sorted values each has
    errors: Tensor  # (layers, codebooks) float64
    trust: Tensor  # (layers,) float64: an error below it has lost digits, and is measured directly


def _lloyd(
    ordered: list[Tensor], moments: list[Moments], levels: Tensor, *, free_zero: bool
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
    trust = TRUSTED * torch.cat([total[-1:] for total in squares])
    return _Polished(levels, counts, terms.sum(-1), trust)


def _shares(ordered: list[Tensor], levels: Tensor) -> tuple[Tensor, Tensor]:
    """Where each level's interval of the sorted values ends, and how many values it has."""
    middles = (levels[..., 1:] + levels[..., :-1]) / 2  # (layers, codebooks, levels - 1)
    edges = {
        dtype: pad(beyond(middles, dtype), (0, 1), value=torch.inf)
        for dtype in {x.dtype for x in ordered}
    }
    # the last edge is beyond all values
    upper = torch.stack([_search(x, edges[x.dtype][i]) for i, x in enumerate(ordered)])
    # A centre left without values stays where it was; its neighbours may then pass it.
    upper = upper.cummax(-1).values
    return upper, _steps(upper)


def beyond(middles: Tensor, dtype: torch.dtype) -> Tensor:
    """The least numbers of ``dtype`` above the middles, which are float64.

    A value of ``dtype`` that equals a rounded middle lies on one side of it in truth.
    """
    edges = middles.to(dtype)
    return torch.where(edges <= middles, edges.nextafter(torch.full_like(edges, torch.inf)), edges)


def _between(prefixes: list[Tensor], upper: Tensor) -> Tensor:
    """Sums over the intervals that end at ``upper``, by each layer's prefix sums."""
    return _steps(torch.stack([prefix[u] for prefix, u in zip(prefixes, upper, strict=True)]))


def _steps(ends: Tensor) -> Tensor:
    """From each end to the next, the first from 0."""
    return torch.diff(ends, dim=-1, prepend=torch.zeros_like(ends[..., :1]))


def _errors(x: Tensor, levels: Tensor, counts: Tensor) -> Tensor:
    """ℰ = Σᵢ (vᵢ − c)² of every codebook, float64; a level has so many of the sorted values."""
    # Directly: differences of prefix sums would lose it where ℰ ≪ Σv². Each difference is rounded
    # to the values' precision, 6e-8 of itself in float32; squares are not.
    errors, differences = [], torch.empty_like(x)
    for c, n in zip(levels.to(x.dtype), counts, strict=True):
        if x.device.type == "cpu":
            from lib.projections.codebook import sums_cpu

            sums_cpu.differences(x.numpy(), c.numpy(), n.numpy(), differences.numpy())
        else:
            differences = torch.repeat_interleave(c, n, output_size=x.numel()).sub_(x)
        errors.append(torch.linalg.vector_norm(differences, dtype=torch.float64).square().view(1))
    return torch.cat(errors)


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
        return _sums_on_cpu(x, 0.0)
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


def _sums_on_cpu(x: Tensor, shift: float, *, squared: bool = False) -> Tensor:
    """`_prefix` of what `shift` leaves of the values, or of its squares."""
    from lib.projections.codebook import sums_cpu

    return torch.from_numpy(sums_cpu.prefix_sums(x.numpy(), shift, squared, row=SCAN))
