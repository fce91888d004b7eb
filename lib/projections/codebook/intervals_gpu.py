"""The programme of ``intervals`` on a GPU, by Triton: a launch a step, over all rows at once.

A product may be fused with a sum, and every cut from the block's lowest on is tried, so the cuts
are those of a CPU to rounding, not bit for bit.
"""

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from lib.projections.codebook.rows import Row, padded, share

ENDS, CUTS = 32, 64  # positions j of a block, and how many last cuts i it tries at a time


def best_cuts(
    rows: list[Row], wanted: list[list[int]], *, signs: bool, device: torch.device
) -> list[list[np.ndarray]]:
    """As ``intervals.best_cuts``: one transfer to the device and one back, and a launch a step.

    Memory: two bytes a step and position, 120 MB for ResNet-50's layers with 256 clusters each.
    """
    sizes = np.array([len(row.rest) for row in rows])
    blocks = -(-sizes // ENDS)
    owner = np.repeat(np.arange(len(rows)), blocks)  # (blocks,) their rows
    starts, begins = np.cumsum(sizes) - sizes, np.cumsum(blocks) - blocks
    first = (np.arange(len(owner)) - begins[owner]) * ENDS
    counts = np.minimum([row.asked for row in rows], sizes - 1)
    most, table = int(counts.max(initial=0)), padded(wanted).numpy()
    sums = [getattr(row, name) for name in ("number", "total", "square", "rest") for row in rows]
    lists = [first, starts[owner], sizes[owner], starts, begins, blocks, counts, table.ravel()]
    sent, integers = _sent(np.concatenate(sums), np.concatenate(lists), device)
    number, total, square, rest = sent.view(4, -1)
    *block, starts, begins, blocks, counts, numbers = integers.split([len(a) for a in lists])

    new: Any = {"device": device, "dtype": torch.float64}
    cost = torch.full((2, len(number)), torch.inf, **new)
    cost[0].index_fill_(0, starts, 0)  # F[0] is 0 at position 0, infinite elsewhere
    last = torch.zeros(most + 1, len(number), dtype=torch.int16, device=device)
    low = torch.empty(most + 1, len(owner), **new)
    where = torch.empty(most + 1, len(owner), dtype=torch.int32, device=device)
    best = torch.empty(len(rows), most + 1, **new)
    end = torch.zeros(len(rows), most + 1, dtype=torch.int32, device=device)
    best[:, 0] = rest[starts]
    shared = number, total, square, rest
    with torch.cuda.device_of(number):
        for k in range(1, most + 1):
            _step[(len(owner),)](
                *shared, cost[(k - 1) % 2], cost[k % 2], last[k - 1], last[k], low[k], where[k],
                *block, ENDS=ENDS, CUTS=CUTS,
            )  # fmt: skip
        if most:
            wide = triton.next_power_of_2(int(max(-(-sizes // ENDS))))
            _close[(len(rows), most)](
                low, where, best, end, begins, blocks, low.shape[1], most + 1, WIDE=wide
            )
        shares = share(best, counts, numbers.view(table.shape), signs=signs)  # (rows, widths)
        path = torch.full((*shares.shape, most + 2), -1, dtype=torch.int16, device=device)
        if shares.numel():
            _trace[tuple(shares.shape)](
                last, end, shares, path, starts, last.shape[1], shares.shape[1], most + 1
            )
    found = path.cpu().numpy()  # (rows, widths, steps + 1), ascending, then −1
    kept = (found[..., :-1] >= 0) & (found[..., :-1] != found[..., 1:])
    return [
        [
            found[r, w, :-1][kept[r, w]].astype(np.int64)
            for w in range(len(wanted[r // (1 + signs)]))
        ]
        for r in range(len(rows))
    ]


def _sent(floats: np.ndarray, integers: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Both in one transfer, since each is waited for."""
    host = np.concatenate([floats.view(np.uint8), integers.astype(np.int64).view(np.uint8)])
    sent = torch.from_numpy(host).to(device)
    return sent[: floats.nbytes].view(torch.float64), sent[floats.nbytes :].view(torch.int64)


@triton.jit
def _step(
    number, total, square, rest, before, cost, last_before, last, low, where,
    firsts, starts, sizes, ENDS: tl.constexpr, CUTS: tl.constexpr,
):  # fmt: skip
    """F[k] and its last cuts from those of k − 1, for one block of positions j of one row."""
    block = tl.program_id(0)
    first = tl.load(firsts + block)
    start = tl.load(starts + block)
    size = tl.load(sizes + block)
    j = first + tl.arange(0, ENDS)
    there = j < size
    nj = tl.load(number + start + j, mask=there, other=1.0)
    sj = tl.load(total + start + j, mask=there, other=0.0)
    qj = tl.load(square + start + j, mask=there, other=0.0)
    best = tl.full((ENDS,), float("inf"), tl.float64)
    at = tl.zeros((ENDS,), tl.int64)
    # the last cut grows with j and with k, so none of the block's is below its first one of k − 1
    lowest = tl.load(last_before + start + first).to(tl.int64)
    high = tl.minimum(first + ENDS, size) - 1
    while lowest < high:
        i = lowest + tl.arange(0, CUTS)
        inside = i < high
        head = tl.load(before + start + i, mask=inside, other=float("inf"))
        head -= tl.load(square + start + i, mask=inside, other=0.0)
        si = tl.load(total + start + i, mask=inside, other=0.0)
        ni = tl.load(number + start + i, mask=inside, other=0.0)
        fits = (i[None, :] < j[:, None]) & inside[None, :] & there[:, None]
        # (F[k−1][i] − Q[i]) − (S[j] − S[i])² / (N[j] − N[i])
        moved = sj[:, None] - si[None, :]
        n = tl.where(fits, nj[:, None] - ni[None, :], 1.0)
        tried = tl.where(fits, head[None, :] - moved * moved / n, float("inf"))
        least = tl.min(tried, axis=1)
        cut = tl.max(tl.where(tried == least[:, None], i[None, :], -1), axis=1)
        better = (least <= best) & (least < float("inf"))  # the latest of equals
        best = tl.where(better, least, best)
        at = tl.where(better, cut, at)
        lowest += CUTS
    found = tl.where(j == 0, 0.0, best + qj)
    tl.store(cost + start + j, found, mask=there)
    tl.store(last + start + j, at.to(tl.int16), mask=there)
    # the block's least F[k][j] + rest[j], and the last position that reaches it
    closed = tl.load(rest + start + j, mask=there, other=float("inf"))
    closed = tl.where(there, found + closed, float("inf"))
    least = tl.min(closed, axis=0)
    tl.store(low + block, least)
    tl.store(where + block, tl.max(tl.where(closed == least, j, -1), axis=0).to(tl.int32))


@triton.jit
def _close(low, where, best, end, begins, blocks, every, steps, WIDE: tl.constexpr):
    """The least of a row's blocks, for one row and step."""
    row, k = tl.program_id(0), tl.program_id(1) + 1
    block = tl.arange(0, WIDE)
    inside = block < tl.load(blocks + row)
    at = k * every + tl.load(begins + row) + block
    least_of = tl.load(low + at, mask=inside, other=float("inf"))
    place = tl.load(where + at, mask=inside, other=-1)
    least = tl.min(least_of, axis=0)
    tl.store(best + row * steps + k, least)
    tl.store(end + row * steps + k, tl.max(tl.where(least_of == least, place, -1), axis=0))


@triton.jit
def _trace(last, end, shares, path, starts, positions, widths, steps):
    """The cuts of one row's clusters, backwards from where they end."""
    row, width = tl.program_id(0), tl.program_id(1)
    k = tl.load(shares + row * widths + width)
    start = tl.load(starts + row)
    out = path + (row * widths + width) * (steps + 1)
    at = tl.load(end + row * steps + k).to(tl.int64)
    tl.store(out + k, at.to(tl.int16))
    while k > 0:
        at = tl.load(last + k * positions + start + at).to(tl.int64)
        k -= 1
        tl.store(out + k, at.to(tl.int16))
