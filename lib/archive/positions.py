"""Where a layer's nonzeros are: a model that adapts to rows and columns, zero once they are dead.

A trained layer's nonzeros crowd in some rows (filters, units), in some columns (their inputs) and,
in a kernel, beside one another. Rows and columns without any are named first, a flag each, and left
out, where that pays. What remains is coded in blocks of a row, each entry with the probability that
its row, its column and its neighbours gave so far.
"""

from math import log2
from typing import Any, NamedTuple

import numpy as np

from lib.archive.coder import Meter
from lib.archive.symbols import code_number, code_symbols

#: With how many entries of the layer's mean density a row or column starts: few where rows and
#: columns differ much, many where they do not. The writer tries each and says which.
STRENGTHS = (8, 128, 2**13, 2**17)

#: The same for how many of an entry's two neighbours are nonzero.
NEIGHBOURS = 32

#: The writer tries them on this many entries, or on this share of a large layer's.
TRIED = 2**14
TRIED_SHARE = 2**-6

#: Entries in a block at least, and blocks in a layer at most: what is counted within a block
#: changes no probability in it.
LEAST_BLOCK = 16
MOST_BLOCKS = 2**13

#: The writer counts rows of so many entries together: they stay in the processor's cache.
AT_ONCE = 2**15

#: No probability comes nearer to 0 or 1: about twice what the coder's 24 bits can say.
LEAST_P = 2.0**-22

#: A row of billions of ones would round its density to 1, whose odds are no number.
MOST_DENSITY = 1 - 2.0**-30

#: The first guess of the density: 1 in 20, worth 20 entries.
GUESS = (1, 20)


class _Layout(NamedTuple):
    """The live columns in the order in which they are coded: by place in the kernel, then input."""

    order: np.ndarray  # (live,) which column
    neighbours: np.ndarray | None  # (2, live) places in that order: left, above; ``live``: none
    starts: list[int]  # where a place in the kernel begins: a block does not reach beyond


def code_positions(
    coder,
    rows: int,
    columns: int,
    mask: np.ndarray | None = None,
    *,
    fed: np.ndarray | None = None,
    kernel: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Codes a mask of (``rows``, ``columns``) bool; reads it where ``mask`` is ``None``.

    Entry (i, j) is a nonzero with odds

        o = (o_row · o_column · o_neighbours)^¾ / o_layer^(5/4),

    of the densities p = (k + s·p_layer) / (n + s) so far, k of n entries seen being nonzeros: in
    the row, in the column, among entries with as many nonzero neighbours, in the layer. s is one of
    ``STRENGTHS``. (With exponents 1, 1, 1 and −2 they would count as independent witnesses; they
    are not quite.) Cost O(rows·columns) in vectors of a block. Nothing but the mask is coded:
    zero-order entropy is the bound where rows and columns are alike, and it costs some
    (rows + columns)·½log₂(n/s) bits to learn otherwise.

    ``fed`` (columns,) bool says which columns are likely to be alive: those whose input is.
    ``kernel`` is (height, width) of the kernels of which a row consists; the neighbours of an entry
    are those to its left and above in its kernel. Where it is one by one there are none.
    """
    ones = None if mask is None else int(np.count_nonzero(mask))
    given: list[Any] = [None, None] if mask is None else [mask.any(axis=1), mask.any(axis=0)]
    some_rows, rows_named = _code_some(coder, rows, columns, ones, given[0])
    live = int(np.count_nonzero(some_rows))
    if not live:
        return np.zeros((rows, columns), bool)
    some_columns, columns_named = _code_some(coder, columns, live, ones, given[1], fed)
    # of one row, or one column, the names are the entries
    if (columns_named and live <= 1) or (rows_named and some_columns.sum() <= 1):
        return np.logical_and.outer(some_rows, some_columns)
    layout = _layout(some_columns, kernel)
    alive = np.ix_(some_rows.nonzero()[0], layout.order)
    inner: Any = None if mask is None else mask[alive]
    size = (live, len(layout.order))
    turned = layout.neighbours is None and size[0] > size[1]  # the longer side in vectors
    if turned:
        inner, size = None if inner is None else inner.T, size[::-1]
        layout = _layout(np.ones(size[1], bool), (1, 1))

    best = None if inner is None else int(_costs(layout, inner).argmin())
    strength = STRENGTHS[code_number(coder, len(STRENGTHS), best)]
    if mask is not None:
        _write(coder, layout, strength, inner)
        return mask
    found = _read(coder, size[0], layout, strength)
    whole = np.zeros((rows, columns), bool)
    whole[alive] = found.T if turned else found
    return whole


def _code_some(
    coder,
    count: int,
    across: int,
    ones: Any,
    some: np.ndarray | None,
    likely: np.ndarray | None = None,
) -> tuple[np.ndarray, bool]:
    """Which of ``count`` rows (columns), ``across`` wide, hold a nonzero, and whether that is said.

    Where naming them would not pay all may.
    """
    pays = None if some is None else int(_pays(across, ones, some, likely))
    if code_number(coder, 2, pays):
        return code_flags(coder, count, some, likely), True
    return np.ones(count, bool), False


def _pays(across: int, ones: int, some: np.ndarray, likely: np.ndarray | None) -> bool:
    """Whether flags, and the entries that they leave, are less than all, by zero-order entropy."""
    likely = np.ones(len(some), bool) if likely is None else likely
    flags = sum(_entropy(int(part.sum()), int(some[part].sum())) for part in (likely, ~likely))
    left, whole = across * int(np.count_nonzero(some)), across * len(some)
    return (flags + _entropy(left, ones), left) < (_entropy(whole, ones), whole)


def _entropy(count: int, ones: int) -> float:
    """Bits of ``count`` bits, ``ones`` of which are 1: n·log₂ n − k·log₂ k − (n−k)·log₂(n−k)."""
    return sum(sign * n * log2(n) for sign, n in ((1, count), (-1, ones), (-1, count - ones)) if n)


def _layout(some_columns: np.ndarray, kernel: tuple[int, int]) -> _Layout:
    height, width = kernel
    live = np.count_nonzero(some_columns)
    if height * width == 1:
        return _Layout(some_columns.nonzero()[0], None, [0])
    # (height, width, inputs): the column of each place and input, and whether it lives
    column = np.moveaxis(np.arange(len(some_columns)).reshape(-1, height, width), 0, -1)
    lives = some_columns[column]
    place = np.where(lives, np.cumsum(lives).reshape(lives.shape) - 1, live)
    left, above = np.full_like(place, live), np.full_like(place, live)
    left[:, 1:], above[1:] = place[:, :-1], place[:-1]
    starts = np.concatenate([[0], np.cumsum(lives.sum(axis=2).reshape(-1))[:-1]])
    return _Layout(column[lives], np.stack([left[lives], above[lives]]), starts.tolist())


def code_flags(
    coder, count: int, flags: np.ndarray | None = None, likely: np.ndarray | None = None
) -> np.ndarray:
    """Codes ``count`` flags, (count,) bool; those that are ``likely`` apart from the others."""
    likely = np.ones(count, bool) if likely is None else likely
    found = np.empty(count, bool)
    for part in (likely, ~likely):
        given = None if flags is None else flags[part].astype(np.uint8)
        found[part] = code_symbols(coder, 2, int(np.count_nonzero(part)), given)
    return found


def _costs(layout: _Layout, inner: np.ndarray) -> Any:
    """Bits of the first rows by each of ``STRENGTHS``, all at once."""
    tried = max(TRIED, int(inner.size * TRIED_SHARE))
    rows = min(len(inner), tried // max(1, inner.shape[1]) + 1)
    meter = Meter()
    _write(meter, layout, np.array(STRENGTHS)[:, None, None], inner[:rows])
    return meter.spent


def _read(coder, rows: int, layout: _Layout, strength: int) -> np.ndarray:
    """Row by row, block by block: what one block holds is known to the next."""
    columns = len(layout.order)
    blocks = _blocks(rows, columns, layout.starts)
    found = np.zeros((rows, columns), bool)
    in_columns = np.zeros(columns, np.int32)
    beside = np.zeros((2, 3), np.int64)  # nonzeros and all, with 0, 1 and 2 nonzero neighbours
    ones, seen = GUESS
    for i in range(rows):
        in_row = 0
        row_so_far = np.zeros(columns + 1, np.int8)  # the last one is the neighbour that is none
        for part in blocks:
            layer = ones / seen
            row = _odds_of(in_row, part.start, layer, strength)
            column = _odds_of(in_columns[part], i, layer, strength)
            near = _odds(layer)
            if layout.neighbours is not None:
                count = row_so_far[layout.neighbours[:, part]].sum(axis=0)
                near = _odds_of(beside[0], beside[1], layer, NEIGHBOURS)[count]
            bits = coder.bits(_p(row, column, near, _odds(layer)))
            found[i, part] = row_so_far[part] = bits
            new = int(np.count_nonzero(bits))
            in_row, ones, seen = in_row + new, ones + new, seen + len(bits)
            if layout.neighbours is not None:
                beside += [np.bincount(count[bits], minlength=3), np.bincount(count, minlength=3)]
        in_columns += found[i]
    return found


def _write(coder, layout: _Layout, strength: int | np.ndarray, mask: np.ndarray) -> None:
    """What :func:`_read` reads. All of it is known, so that rows are counted many at once.

    A :class:`Meter` takes several strengths, too, (models, 1, 1).
    """
    columns = len(layout.order)
    starts = np.array([part.start for part in _blocks(len(mask), columns, layout.starts)])
    block = np.repeat(np.arange(len(starts)), np.diff(starts, append=columns))  # (columns,)
    in_columns = np.zeros(columns, np.int32)
    beside = np.zeros((2, 3), np.int64)
    ones, seen = GUESS
    height = max(1, AT_ONCE // columns)
    for first in range(0, len(mask), height):
        rows = mask[first : first + height]  # (rows, columns)
        i = np.arange(first, first + len(rows))[:, None]
        new = np.add.reduceat(rows, starts, axis=1, dtype=np.int64)  # (rows, blocks)
        layer = (ones + _before(new)) / (seen + i * columns + starts)
        row = _odds_of(new.cumsum(axis=1) - new, starts, layer, strength)
        above = in_columns + rows.cumsum(axis=0, dtype=np.int32) - rows
        column = _odds_of(above, i, layer[:, block], strength)
        density = _odds(layer)
        near = density[:, block]
        if layout.neighbours is not None:
            padded = np.pad(rows, ((0, 0), (0, 1))).view(np.int8)
            count = padded[:, layout.neighbours].sum(axis=1)  # (rows, columns)
            alike = [count == number for number in range(3)]
            both = np.array([[rows & one for one in alike], alike])  # (2, 3, rows, columns)
            both = np.add.reduceat(both, starts, axis=-1, dtype=np.int64)  # (2, 3, rows, blocks)
            so_far = beside[..., None, None] + _before(both)
            odds = _odds_of(so_far[0], so_far[1], layer, NEIGHBOURS)
            table = np.moveaxis(odds, 0, -1).reshape(len(rows), -1)
            near = np.take_along_axis(table, 3 * block + count, axis=1)
            beside += both.sum(axis=(-2, -1))
        p = _p(row[..., block], column, near, density[:, block])
        coder.bits(p.reshape(*p.shape[:-2], -1), rows.reshape(-1))
        in_columns += rows.sum(axis=0, dtype=np.int32)
        ones += int(new.sum())


def _before(counts: np.ndarray) -> np.ndarray:
    """What was counted before each block, row by row; (…, rows, blocks)."""
    flat = counts.reshape(*counts.shape[:-2], -1)
    return (flat.cumsum(axis=-1) - flat).reshape(counts.shape)


def _odds_of(ones, seen, layer, strength):
    """The odds that a row, a column or as many neighbours give: ``ones`` of ``seen`` so far."""
    return _odds(np.minimum((ones + strength * layer) / (seen + strength), MOST_DENSITY))


def _p(row, column, near, layer):
    """The probabilities of entries, by odds."""
    # o = (o_row·o_column·o_neighbours)^¾ / o_layer^(5/4), of square roots, which every machine
    # rounds alike
    all_three = row * column * near
    odds = np.sqrt(all_three * np.sqrt(all_three)) / (layer * np.sqrt(np.sqrt(layer)))
    return np.minimum(np.maximum(odds / (1 + odds), LEAST_P), 1 - LEAST_P)


def _blocks(rows: int, columns: int, starts: list[int]) -> list[slice]:
    """The parts of a row that are coded at once."""
    block = max(LEAST_BLOCK, -(-rows * columns // MOST_BLOCKS))
    return [
        slice(place, min(place + block, end))
        for start, end in zip(starts, [*starts[1:], columns], strict=True)
        for place in range(start, end, block)
    ]


def _odds(p):
    return p / (1 - p)
