"""The nonzero values: a codebook and codes where few are distinct, bytes of each place where not.

Values are handled as bit patterns, unsigned integers, so that what is read is what was written to
the last bit, NaN included.
"""

import math

import numpy as np

from lib.archive.symbols import code_number, code_symbols

#: The largest codebook.
MOST_LEVELS = 256

#: So many of the values are looked up in the codebook at a time.
PART = 2**20

#: So many of the values are looked at before all are sorted.
GLANCE = 10_000


def code_values(coder, count: int, dtype: np.dtype, values: np.ndarray | None = None):
    """Codes ``count`` patterns of the unsigned ``dtype``; reads them where ``values`` is ``None``.

    Returns (patterns, bits of the codebook alone, as the coder counts them).
    """
    book, codes = (None, None) if values is None else _levels(values)
    levels = code_number(coder, MOST_LEVELS + 1, None if book is None else len(book))
    if not levels:
        return code_planes(coder, count, dtype, values), 0.0
    before = spent(coder)
    book = code_planes(coder, levels, dtype, book)
    cost = spent(coder) - before
    return book[code_symbols(coder, levels, count, codes)], cost


def code_planes(coder, count: int, dtype: np.dtype, values: np.ndarray | None = None) -> np.ndarray:
    """Codes the first bytes of all values, then the second ones, and so on.

    A float's exponent repeats, and the last bytes of rounded floats are zeros: such a plane costs
    little.
    """
    width = np.dtype(dtype).itemsize
    found = np.empty((count, width), np.uint8)
    if values is not None:
        found = np.ascontiguousarray(values, np.dtype(dtype).newbyteorder(">")).view(np.uint8)
        found = found.reshape(count, width)
    for place in range(width):
        plane = None if values is None else found[:, place]
        found[:, place] = code_symbols(coder, 256, count, plane)
    return found.reshape(-1).view(np.dtype(dtype).newbyteorder(">")).astype(dtype)


def spent(coder) -> float:
    """Bits that the coder counted so far; a decoder does not count."""
    return getattr(coder, "spent", 0.0)


def _levels(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The codebook and each value's place in it; an empty codebook where one would not pay."""
    none = values[:0], None
    if len(values) == 0 or len(np.unique(values[:GLANCE])) > MOST_LEVELS:
        return none
    book = np.unique(values)
    width = 8 * values.dtype.itemsize
    cost = len(book) * width + len(values) * math.log2(len(book))
    if len(book) > MOST_LEVELS or cost >= len(values) * width:
        return none
    codes = np.empty(len(values), np.uint8)
    for start in range(0, len(values), PART):  # 8 bytes a value each time, not once for all
        part = slice(start, start + PART)
        codes[part] = np.searchsorted(book, values[part])
    return book, codes
