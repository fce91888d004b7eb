"""One tensor of the file: where its nonzeros are and what they are, or the numbers of its grid."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lib.archive.coder import Meter
from lib.archive.grid import Grid, code_grid
from lib.archive.header import Entry
from lib.archive.positions import code_positions
from lib.archive.symbols import code_number
from lib.archive.values import code_values, spent

#: How a tensor is coded: as in version 1; as a grid, zeros among its numbers, or named apart.
PLAIN, WITHIN, APART = range(3)
WAYS = 3

#: The share of zeros from which on the last is tried.
LEAST_ZEROS = 1 / 8

#: The ways are tried on so many values of a large tensor, or on one row; there a grid must save
#: the share ``LEAST_SAVED``.
TRIED = 2**18
LEAST_SAVED = 1 / 50


def way_of(tensor: Entry, flat: np.ndarray, grid: Grid) -> tuple[int, float]:
    """The shortest way for a tensor on a grid, and the bits that it saves, 0 where it is PLAIN."""
    if tensor.count <= TRIED or tensor.shape[0] == 1:
        costs, times, least = _costs(tensor, flat, grid), 1.0, 0.0
    else:
        step = min(tensor.shape[0], -(-tensor.count // TRIED))
        rows = flat.reshape(tensor.shape[0], -1)[::step]
        some = Entry(tensor.name, tensor.dtype, (len(rows), *tensor.shape[1:]))
        scales = grid.scales[::step] if len(grid.scales) > 1 else grid.scales
        costs = _costs(some, rows.reshape(-1), Grid(scales, grid.numbers[::step]))
        times, least = tensor.count / some.count, LEAST_SAVED * costs[PLAIN]
    way = int(np.argmin(costs))
    saved = costs[PLAIN] - costs[way]
    return (way, saved * times) if saved > least else (PLAIN, 0.0)


def _costs(tensor: Entry, flat: np.ndarray, grid: Grid) -> list[float]:
    """Bits of a tensor that is on a grid, each way; infinite where it is not tried."""
    zeros, plain, within, apart = Meter(), Meter(), Meter(), Meter()
    mask = _code_zeros(zeros, tensor, matrix_positions(tensor, None), flat != 0)
    _code_values(plain, tensor, mask, flat)
    code_grid(within, tensor, None, grid)
    costs = [zeros.spent + plain.spent, within.spent, math.inf]
    if np.count_nonzero(mask) <= (1 - LEAST_ZEROS) * len(flat):
        code_grid(apart, tensor, mask, grid)
        costs[APART] = zeros.spent + apart.spent
    return costs


def code_tensor(
    coder,
    tensor: Entry,
    flat: np.ndarray | None,
    rows: list[dict] | None,
    place: Callable[..., np.ndarray],
    way: int = PLAIN,
    grid: Grid | None = None,
) -> np.ndarray:
    """Codes the patterns of one tensor, (n,) unsigned; what it took becomes one of ``rows``."""
    start = spent(coder)
    mask: Any = None if flat is None else flat != 0
    if way != WITHIN:
        mask = _code_zeros(coder, tensor, place, mask)
    placed = spent(coder)
    if way == PLAIN:
        found, levels, book = _code_values(coder, tensor, mask, flat)
    else:
        found, levels, book = code_grid(coder, tensor, mask if way == APART else None, grid)
    if rows is not None:
        rows.append(
            {
                "name": tensor.name,
                "shape": "×".join(map(str, tensor.shape)),
                "weights": tensor.count,
                "kept": int(np.count_nonzero(found)),
                "levels": levels,
                "bits": max(1, math.ceil(math.log2(levels))) if levels else 8 * found.itemsize,
                "position_bits": placed - start,
                "value_bits": spent(coder) - placed - book,
                "codebook_bits": book,
            }
        )
    return found


def _code_zeros(coder, tensor: Entry, place, mask: np.ndarray | None) -> np.ndarray:
    """Codes where the nonzeros are, (n,) bool."""
    if code_number(coder, 2, None if mask is None else int(not mask.all())):
        return place(coder, tensor.count, mask)
    return np.ones(tensor.count, bool)


def _code_values(
    coder, tensor: Entry, mask: np.ndarray, flat: np.ndarray | None
) -> tuple[np.ndarray, int, float]:
    """Codes the nonzeros' patterns; returns all (n,), the codebook's levels, and its bits."""
    given = flat
    if flat is not None and not mask.all():
        given = flat[mask]
    values, levels, book = code_values(
        coder, mask.reshape(-1, *tensor.kernel), tensor.pattern, given
    )
    if flat is None and not mask.all():
        flat = np.zeros(tensor.count, tensor.pattern)
        flat[mask] = values
    return (values if flat is None else flat), levels, book


def matrix_positions(tensor: Entry, fed: np.ndarray | None):
    """How the positions of a matrix are coded; ``fed``: the rows of the matrix before it.

    Where those divide its columns they are taken for what feeds them: column j is read from row
    j·rows // columns. That is so in a chain of layers; elsewhere the coder learns that it is not.
    """
    height, width = tensor.shape[0], math.prod(tensor.shape[1:])
    likely = None
    if fed is not None and len(fed) and width % len(fed) == 0:
        likely = np.repeat(fed, width // len(fed))

    def place(coder, count: int, mask: np.ndarray | None = None) -> np.ndarray:
        given = None if mask is None else mask.reshape(height, width)
        found = code_positions(coder, height, width, given, fed=likely, kernel=tensor.kernel)
        return found.reshape(count)

    return place
