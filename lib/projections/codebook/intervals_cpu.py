"""The programme of ``intervals`` on a CPU."""

from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise

import numba
import numpy as np
import torch

from lib.projections.codebook.rows import Row, padded, share
from lib.projections.compiled import compiled, inner

TOGETHER = 32_768  # positions solved together, because every step's cuts are kept
ZERO, ONE, TWO = (np.uintp(i) for i in range(3))  # an unsigned index is not checked for −1


def best_cuts(rows: list[Row], wanted: list[list[int]], *, signs: bool) -> list[list[np.ndarray]]:
    """As ``intervals.best_cuts``, groups of layers side by side on all threads."""
    each = 1 + signs  # rows of a layer

    def solve(group: tuple[int, int]) -> list[list[np.ndarray]]:
        first, last = group
        return _together(rows[each * first : each * last], wanted[first:last], signs=signs)

    starts, total = [], np.inf
    for layer in range(len(wanted)):
        size = sum(len(row.rest) for row in rows[each * layer :][:each])
        total += size
        if total > TOGETHER:
            starts.append(layer)
            total = size
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(chain.from_iterable(pool.map(solve, pairwise([*starts, len(wanted)]))))


def _together(rows: list[Row], wanted: list[list[int]], *, signs: bool) -> list[list[np.ndarray]]:
    sizes = [len(row.rest) for row in rows]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    *sums, asked = zip(*rows, strict=True)
    number, total, square, rest = map(np.concatenate, sums)  # each (positions,)
    asked = np.array(asked)
    steps = 1 + asked.max()
    best = np.full((len(rows), steps), np.inf)
    end = np.zeros((len(rows), steps), np.int64)
    last = np.empty((steps, starts[-1]), np.uint16)
    counts = _programme(number, total, square, rest, starts, asked, signs, best, end, last)
    shares = share(torch.from_numpy(best), torch.from_numpy(counts), padded(wanted), signs=signs)
    return [
        [_path(last, starts[r], k, end[r, k]) for k in clusters[: len(wanted[r // (1 + signs)])]]
        for r, clusters in enumerate(shares.tolist())
    ]


@compiled
def _programme(number, total, square, rest, starts, asked, signs, best, end, last):
    """Fill `best` and `end` (rows, steps) and `last` (steps, positions).

    best[r, k] = min over j of F[k][j] + rest[j], which is reached at position end[r, k];
    last[k, j] is the last cut before position j. Returns for each row the largest k reached.
    """
    rows = len(asked)
    cost = np.full(starts[-1], np.inf)  # F[0] is 0 at position 0, infinite elsewhere
    last[0] = 0
    head = np.empty(starts[-1])
    counts = np.zeros(rows, np.int64)
    limits = np.minimum(asked, starts[1:] - starts[:-1] - 1)
    for r in range(rows):
        best[r, 0], cost[starts[r]] = rest[starts[r]], 0.0
    k = 0
    while True:
        active = [
            r for r in range(rows) if _unfinished(best, counts, r, k, limits[r], asked, signs)
        ]
        if len(active) == 0:
            return counts
        # Finished rows leave when k has grown by an eighth, not at every step.
        deepest = 0
        for r in active:
            deepest = max(deepest, limits[r])
        until = k + min(1 + k // 8, deepest - k)
        for r in active:
            part = slice(starts[r], starts[r + 1])
            for step in range(k + 1, until + 1):
                _step(
                    number[part],
                    total[part],
                    square[part],
                    head[part],
                    cost[part],
                    last[step - 1, part],
                    last[step, part],
                )
                best[r, step], end[r, step] = _close(cost[part], rest[part], head[part])
            counts[r] = until
        k = until


@inner
def _unfinished(best, counts, r, k, limit, asked, signs):
    if counts[r] < k or k >= limit:
        return False
    if not signs or k == 0:
        return True
    # Each further cluster gains less (best is convex in k): once `asked` clusters of either sign
    # gain no less than this sign's latest, its next one is not among the best.
    latest = best[r, k - 1] - best[r, k]
    no_less = 0
    for row in (r, r ^ 1):
        for i in range(counts[row]):
            no_less += best[row, i] - best[row, i + 1] >= latest
    return no_less < asked[r]


@inner
def _step(number, total, square, head, cost, before, last):
    """F[k] and its last cuts from those of k − 1, in place of `cost`."""
    positions = np.uintp(len(cost))
    for i in range(positions):
        head[i] = cost[i] - square[i]
    cost[0], last[0] = 0.0, 0
    stride = ONE
    while stride * TWO < positions:
        stride *= TWO
    while stride > ZERO:
        for j in range(stride, positions, stride * TWO):
            i = max(np.uintp(last[j - stride]), np.uintp(before[j]))
            high = j - ONE
            if j + stride < positions:
                high = min(high, np.uintp(last[j + stride]))
            high = max(high, i)
            least, cut = np.inf, i
            while i <= high:  # in pairs, which halves the branches that no processor can predict
                k = min(i + ONE, high)
                first = _tried(number, total, head, i, j)
                second = _tried(number, total, head, k, j)
                if first <= least:  # the latest of equals
                    least, cut = first, i
                if second <= least:
                    least, cut = second, k
                i += TWO
            cost[j], last[j] = least + square[j], cut
        stride >>= ONE


@inner
def _tried(number, total, head, i, j):
    # F[k−1][i] + c(i, j) = Q[j] + (F[k−1][i] − Q[i]) − (S[j] − S[i])² / (N[j] − N[i])
    moved = total[j] - total[i]
    return head[i] - moved * moved / (number[j] - number[i])


@inner
def _close(cost, rest, closed):
    """The least F[k][j] + rest[j], and the last position j that reaches it."""
    for j in range(len(cost)):
        closed[j] = cost[j] + rest[j]
    best = _least(closed)
    end = len(closed) - 1
    while closed[end] != best:
        end -= 1
    return best, end


@numba.njit(fastmath={"nnan", "nsz"})
def _least(values):
    least = np.inf
    for value in values:
        least = min(least, value)
    return least


@compiled
def _path(last, start, k, end):
    """The cuts of the best k clusters that end at a position, ascending, each once."""
    path = np.empty(k + 1, np.int64)
    at = k
    path[at] = end
    for step in range(k, 0, -1):
        cut = last[step, start + path[at]]
        if cut < path[at]:  # fewer points than clusters: some are empty
            at -= 1
            path[at] = cut
    return path[at:]
