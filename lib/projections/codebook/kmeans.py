"""Exact k-means of points on a line, each of which stands for some of a layer's values.

The points are the distinct values where they are few, and bins of a histogram elsewhere. In one
dimension an optimal cluster is an interval of the sorted values, so a dynamic programme
(``intervals``) finds it; one sort serves every number of clusters.
"""

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.projections.codebook.intervals import best_cuts
from lib.projections.codebook.rows import Row

EXACT_DISTINCT = 4096  # a layer of at most this many distinct values is solved exactly


class Fit(NamedTuple):
    """A codebook, and its squared error."""

    error: float
    centres: np.ndarray  # (≤ K,) float32, ascending


class Points(NamedTuple):
    """A layer as the host sees it, in ascending order.

    `mean` was subtracted before the sums were taken (zero when zero is pinned).
    """

    number: np.ndarray  # (points,) how many values
    total: np.ndarray  # (points,) Σ(v − mean)
    square: np.ndarray  # (points,) Σ(v − mean)²
    mean: float
    negative: int  # how many of the points are negative; the next `zero` hold zeros
    zero: int
    value: Any  # (points,) the distinct values; None where points are bins


def distinct(x: Tensor) -> list[Tensor]:
    """How many distinct values, and the first 4,096 of them: where each starts, and its value."""
    n = x.numel()
    if n == 0:
        nothing = x.new_empty(0, dtype=torch.float64)
        return [x.new_zeros(1, dtype=torch.float64), nothing, nothing]
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


def values_as_points(starts: np.ndarray, value: np.ndarray, n: int, *, free_zero: bool) -> Points:
    """The distinct values of a layer of n, from where each starts."""
    number = np.diff(starts, append=n)
    mean = 0.0 if free_zero or n == 0 else float(number @ value / n)
    centred = value - mean
    return Points(
        number=number,
        total=number * centred,
        square=number * centred**2,
        mean=mean,
        negative=int((value < 0).sum()),
        zero=int((value == 0).sum()),
        value=value,
    )


def solve(
    layers: list[Points], wanted: list[list[int]], *, free_zero: bool, device: torch.device
) -> list[list[np.ndarray]]:
    """Means of the optimal clusters for every layer and number wanted, zero left out."""
    rows = [_rows(s, k, free_zero=free_zero) for s, k in zip(layers, wanted, strict=True)]
    cuts = iter(best_cuts(list(chain.from_iterable(rows)), wanted, signs=free_zero, device=device))
    return [
        [_means(s, paths) for paths in zip(*(next(cuts) for _ in part), strict=True)]
        for s, part in zip(layers, rows, strict=True)
    ]


def _rows(s: Points, numbers: list[int], *, free_zero: bool) -> list[Row]:
    asked = numbers[-1] if numbers else 0
    if not free_zero:
        return [_row(s, slice(None), asked=asked, free_zero=False)]
    # An optimal nonzero cluster has values of one sign only: those of the other sign are nearer to
    # zero than to its centre. So the signs are two problems, that share K clusters.
    points, positive = len(s.number), len(s.number) - s.negative - s.zero
    inwards = slice(points - 1, points - 1 - positive if s.negative + s.zero else None, -1)
    return [_row(s, part, asked=asked, free_zero=True) for part in (slice(0, s.negative), inwards)]


def _row(s: Points, part: slice, *, asked: int, free_zero: bool) -> Row:
    number, total, square = s.number[part], s.total[part], s.square[part]
    rest = np.full(len(number) + 1, np.inf)
    rest[-1] = 0
    if free_zero:
        rest[:-1] = np.cumsum(square[::-1])[::-1]
    # A shift changes no cost of a cluster; around their mean the squares cancel least.
    shift = total.sum() / max(number.sum(), 1)
    if s.value is None:
        square = square - 2 * shift * total + number * shift**2
        total = total - number * shift
    else:
        centred = s.value[part] - s.mean - shift
        total, square = number * centred, number * centred**2
    prefix = [np.concatenate([[0.0], np.cumsum(a)]) for a in (number, total, square)]
    return Row._make([*prefix, rest, asked])


def _means(s: Points, paths: tuple[np.ndarray, ...]) -> np.ndarray:
    """The clusters' means, from the positions between them in each row of the layer."""
    if len(paths) == 2:  # the positive row runs backwards from the last point
        paths = paths[0], len(s.number) - paths[1][::-1]
    total, mean = (s.total, s.mean) if s.value is None else (s.number * s.value, 0.0)
    means = [
        np.add.reduceat(total[: path[-1]], path[:-1])
        / np.add.reduceat(s.number[: path[-1]], path[:-1])
        + mean
        for path in paths
        if len(path) > 1
    ]
    return np.concatenate(means) if means else np.empty(0)


def measured(s: Points, centres: np.ndarray, *, free_zero: bool) -> Fit:
    """Round the centres of a layer of few distinct values, and measure their error."""
    centres = as_returned(centres, free_zero=free_zero)
    levels = np.sort(np.append(centres, 0) if free_zero else centres).astype(np.float64)
    if not len(s.value):
        return Fit(0.0, centres)
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, s.value)
    error = float(s.number @ (s.value - levels[nearest]) ** 2)
    used = np.bincount(nearest, minlength=len(levels)) > 0
    return Fit(error, centres[used[levels != 0] if free_zero else used])


def as_returned(centres: np.ndarray, *, free_zero: bool) -> np.ndarray:
    """In float32, ascending, each once, and without the zero that is free."""
    centres = np.unique(centres.astype(np.float32)) + np.float32(0)  # no −0
    return centres[centres != 0] if free_zero else centres
