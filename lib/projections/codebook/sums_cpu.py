"""What the codebooks sum over a layer's values, without a tensor for every step of it.

Sums are taken in rows, whose totals are summed in rows in turn, as ``histogram._prefix`` does.
"""

import numpy as np

from lib.projections.compiled import compiled


def prefix_sums(x: np.ndarray, shift: float, squared: bool = False, *, row: int) -> np.ndarray:
    """(n + 1,) float64, the sums of the first values, less ``shift`` each; or of their squares."""
    totals = np.empty(-(-len(x) // row))
    _row_totals(x, shift, squared, row, totals)
    before = np.zeros(2) if len(totals) == 1 else prefix_sums(totals, 0.0, row=row)
    sums = np.empty(len(x) + 1)
    _prefix_sums(x, shift, squared, before, row, sums)
    return sums


@compiled
def _row_totals(x, shift, squared, row, totals):
    for r in range(len(totals)):
        total = 0.0
        for value in x[r * row : (r + 1) * row]:
            centred = np.float64(value) - shift
            total += centred * centred if squared else centred
        totals[r] = total


@compiled
def _prefix_sums(x, shift, squared, before, row, sums):
    sums[0] = 0.0
    for r in range(len(before) - 1):
        part = x[r * row : (r + 1) * row]
        up_to = sums[1 + r * row :]
        total = 0.0
        for i in range(len(part)):
            centred = np.float64(part[i]) - shift
            total += centred * centred if squared else centred
            up_to[i] = total + before[r]


@compiled
def differences(x, levels, counts, out):
    """Each level less the values of its own, of which there are ``counts``; all in x's dtype."""
    start = 0
    for k in range(len(levels)):
        level, part, target = levels[k], x[start : start + counts[k]], out[start:]
        for i in range(len(part)):
            target[i] = level - part[i]
        start += counts[k]
