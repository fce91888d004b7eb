"""Rows of points, cut into intervals of least squared error: the exact programme of the codebooks.

With c(i, j) the squared error of the points between positions i and j about their mean,

    F[k][j] = min over i < j of F[k−1][i] + c(i, j)

is what the best k clusters of the points before position j cost. On a CPU its loops are compiled by
numba, on a GPU by Triton.
"""

from __future__ import annotations

import functools
import warnings
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TOGETHER = 32_768  # points that a CPU solves together


class Row(NamedTuple):
    """One line of points to be cut into intervals: a layer, or one sign of it.

    Positions 0 … m lie between the points. The values of one sign run from the extreme inwards;
    `rest[j]` is what all points from position j on cost, left to zero.
    """

    number: np.ndarray  # (m + 1,) prefix sums over the points
    total: np.ndarray
    square: np.ndarray
    rest: np.ndarray  # (m + 1,)
    asked: int  # clusters wanted at most, over all rows of the layer


def best_cuts(
    rows: list[Row],
    wanted: list[list[int]],
    *,
    signs: bool,
    points: list[int],
    device: torch.device,
) -> list[list[np.ndarray]]:
    """For every row and number of clusters wanted, the positions between the best clusters.

    A row gets the clusters asked of it, or, with `signs`, its share: rows 2ℓ and 2ℓ + 1 are the two
    signs of layer ℓ, and share its clusters.

    Args:
        rows: one a layer, or two with `signs`; at most 32,767 positions each.
        wanted: for each layer the numbers K of clusters, each at most its rows' `asked`.
        signs: two rows a layer instead of one.
        points: for each layer how many it has, those of zeros too.
        device: where the values are; `programme` says what that means.

    Returns:
        For each row and each number wanted the ascending positions, 0 and the end included; fewer
        than K + 1 where clusters are empty, or where points are left to zero.
    """
    if rows and programme(device) == "triton":
        from lib.projections.codebook import intervals_gpu

        return intervals_gpu.best_cuts(rows, wanted, signs=signs, device=device)
    from lib.projections.codebook import intervals_cpu

    return intervals_cpu.best_cuts(rows, wanted, signs=signs, groups=_groups(points))


@functools.cache
def programme(device: torch.device) -> str:
    """What solves layers whose values are on a device: "triton" on a GPU, "numba" on the CPU.

    A GPU is tried once. Where Triton fails there (it needs Linux, a C compiler and a GPU that it
    knows), a warning says so, and its layers are solved on the CPU too.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return "numba"
    few = Row(
        *np.array([[0.0, 1.0, 2.0], [0.0, -1.0, 0.0], [0.0, 1.0, 2.0], [np.inf, np.inf, 0.0]]), 2
    )
    try:
        from lib.projections.codebook import intervals_gpu

        intervals_gpu.best_cuts([few], [[2]], signs=False, device=device)
    except Exception as error:  # whatever Triton, its compiler and the driver raise
        warnings.warn(
            f"Triton does not work on {device} ({type(error).__name__}: {error}): codebooks are "
            "found on the CPU instead, which takes a second or so a large network",
            RuntimeWarning,
            stacklevel=2,
        )
        return "numba"
    return "triton"


def _groups(points: list[int]) -> list[range]:
    """Neighbouring layers of at most 32,768 points together, because every step's cuts are kept."""
    starts, total = [], np.inf
    for layer, size in enumerate(points):
        total += size
        if total > TOGETHER:
            starts.append(layer)
            total = size
    return [range(*pair) for pair in pairwise([*starts, len(points)])]


def padded(wanted: list[list[int]]) -> Tensor:
    """The numbers of clusters wanted of each layer, filled up with zeros: (layers, widths)."""
    table = torch.zeros(len(wanted), max(map(len, wanted)), dtype=torch.int64)
    for numbers, row in zip(wanted, table, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    return table


def share(best: Tensor, counts: Tensor, wanted: Tensor, *, signs: bool) -> Tensor:
    """How many clusters each row takes of those wanted of its layer.

    Args:
        best: (rows, steps) what the row costs with k clusters, in float64.
        counts: (rows,) the largest k of which `best` tells.
        wanted: (layers, widths) numbers of clusters.
        signs: two rows a layer instead of one.

    Returns:
        (rows, widths) int64.
    """
    if not signs:
        return torch.minimum(wanted, counts[:, None])
    negative, positive = best[0::2], best[1::2]  # (layers, steps)
    most = torch.minimum(wanted, counts[0::2, None])[:, :, None]
    k = torch.arange(best.shape[1], device=best.device).expand(*wanted.shape, -1)
    others = torch.minimum(wanted[:, :, None] - k, counts[1::2, None, None]).clamp(min=0)
    # min over k₁ of G₋[k₁] + G₊[K − k₁]
    positive = positive[:, None].expand(-1, wanted.shape[1], -1).gather(2, others)
    both = (negative[:, None] + positive).masked_fill(k > most, torch.inf)
    first = both.argmin(2, keepdim=True)  # the least of equals
    return torch.stack([first, others.gather(2, first)], 1).flatten(0, 1).squeeze(2)
