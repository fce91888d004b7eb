"""Rows of points that are to be cut into intervals, and the clusters that two of them share."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


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


def padded(wanted: list[list[int]]) -> Tensor:
    """The numbers of clusters wanted of each layer, filled up with zeros: (layers, widths)."""
    numbers = [torch.tensor(numbers, dtype=torch.int64) for numbers in wanted]
    return torch.nn.utils.rnn.pad_sequence(numbers, batch_first=True)


def share(best: Tensor, counts: Tensor, wanted: Tensor, *, signs: bool) -> Tensor:
    """How many clusters each row takes of those wanted of its layer.

    Parameters
    ----------
    best : Tensor
        (rows, steps) float64, what the row costs with k clusters.
    counts : Tensor
        (rows,) the largest k of which `best` tells.
    wanted : Tensor
        (layers, widths) numbers of clusters.
    signs : bool
        Two rows per layer instead of one.

    Returns
    -------
    Tensor
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
