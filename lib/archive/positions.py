"""Where a layer's nonzeros are: a model that adapts to rows and columns, zero once they are dead.

A trained layer's nonzeros crowd in some rows (filters, units) and columns (their inputs). Rows and
columns without any are named first, a flag each, and left out. What remains is coded in blocks of
a row, each entry with the probability that the rows and columns gave so far.
"""

from math import sqrt

import numpy as np

from lib.archive.coder import Meter
from lib.archive.symbols import code_choice, code_symbols

#: With how many entries of the layer's mean density a row or column starts: few where rows and
#: columns differ much, many where they do not. The writer tries each and says which.
STRENGTHS = (8, 64, 512, 4096)

#: The writer tries them on this many entries at most.
TRIED = 2**18

#: Entries in a block at least, and blocks in a layer at most: what is counted within a block
#: changes no probability in it.
LEAST_BLOCK = 16
MOST_BLOCKS = 2**13

#: No probability comes nearer to 0 or 1: about twice what the coder's 24 bits can say.
LEAST_P = 2.0**-22

#: A row of billions of ones would round its density to 1, whose odds are no number.
MOST_DENSITY = 1 - 2.0**-30

#: The first guess of the density: 1 in 20, worth 20 entries.
GUESS = (1, 20)


def code_positions(
    coder, rows: int, columns: int, mask: np.ndarray | None = None, *, fed: np.ndarray | None = None
) -> np.ndarray:
    """Codes a mask of (``rows``, ``columns``) bool; reads it where ``mask`` is ``None``.

    Entry (i, j) is a nonzero with odds, per row and per column and of the layer so far,

        o = (o_row · o_column)^¾ / √o_layer,  the densities p = (k + s·p_layer) / (n + s),

    k of n entries seen being nonzeros, s one of ``STRENGTHS``. (With exponents 1, 1 and −1 row
    and column would count as independent witnesses; they are not quite.) Cost O(rows·columns) in
    vectors of a block. Nothing but the mask is coded: zero-order entropy is the bound where rows
    and columns are alike, and it costs some (rows + columns)·½log₂(n/s) bits to learn otherwise.

    ``fed`` (columns,) bool says which columns are likely to be alive: those whose input is.
    """
    some_rows = code_flags(coder, rows, None if mask is None else mask.any(axis=1))
    some_columns = code_flags(coder, columns, None if mask is None else mask.any(axis=0), fed)
    if some_rows.sum() <= 1 or some_columns.sum() <= 1:  # then every entry where they meet is one
        return np.logical_and.outer(some_rows, some_columns)
    alive = np.ix_(some_rows, some_columns)
    inner = None if mask is None else mask[alive]
    size = (np.count_nonzero(some_rows), np.count_nonzero(some_columns))
    turned = size[0] > size[1]  # the longer side in vectors
    if turned:
        inner, size = None if inner is None else inner.T, size[::-1]

    chosen = code_choice(
        coder,
        len(STRENGTHS),
        None if inner is None else lambda meter, s: _try(meter, inner, STRENGTHS[s]),
    )
    found = _code(coder, *size, STRENGTHS[chosen], inner)
    if mask is not None:
        return mask
    whole = np.zeros((rows, columns), bool)
    whole[alive] = found.T if turned else found
    return whole


def code_flags(
    coder, count: int, flags: np.ndarray | None = None, likely: np.ndarray | None = None
) -> np.ndarray:
    """Codes ``count`` flags, (count,) bool; those that are ``likely`` apart from the others."""
    likely = np.ones(count, bool) if likely is None else likely
    found = np.empty(count, bool)
    for part in (likely, ~likely):
        given = None if flags is None else flags[part].astype(np.uint8)
        found[part] = code_symbols(coder, 2, np.count_nonzero(part), given)
    return found


def _try(meter: Meter, inner: np.ndarray, strength: int) -> None:
    rows = min(len(inner), TRIED // max(1, inner.shape[1]) + 1)
    _code(meter, rows, inner.shape[1], strength, inner[:rows])


def _code(
    coder, rows: int, columns: int, strength: int, mask: np.ndarray | None = None
) -> np.ndarray:
    """Row by row, block by block."""
    block = max(LEAST_BLOCK, -(-rows * columns // MOST_BLOCKS))
    found = np.zeros((rows, columns), bool) if mask is None else mask
    in_columns = np.zeros(columns, np.int32)
    ones, seen = GUESS
    for i in range(rows):
        in_row = 0
        for start in range(0, columns, block):
            part = slice(start, min(start + block, columns))
            layer = ones / seen
            row = _odds(min((in_row + strength * layer) / (start + strength), MOST_DENSITY))
            column = _odds((in_columns[part] + strength * layer) / (i + strength))
            # o = (o_row·o_column)^¾ / √o_layer, of square roots, which every machine rounds alike
            both = row * column
            odds = np.sqrt(both * np.sqrt(both)) / sqrt(_odds(layer))
            p = np.clip(odds / (1 + odds), LEAST_P, 1 - LEAST_P)
            bits = coder.bits(p, None if mask is None else mask[i, part])
            found[i, part] = bits
            count = int(np.count_nonzero(bits))
            in_row, ones, seen = in_row + count, ones + count, seen + len(bits)
        in_columns += found[i]
    return found


def _odds(p):
    return p / (1 - p)
