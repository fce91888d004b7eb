"""The nonzero values: a codebook and codes where few are distinct, bytes of each place where not.

Values are handled as bit patterns, unsigned integers, so that what is read is what was written to
the last bit, NaN included.
"""

import math

import numpy as np

from lib.archive.coder import Meter
from lib.archive.symbols import PRIORS, Frequencies, code_choice, code_number, code_symbols

#: The largest codebook.
MOST_LEVELS = 256

#: How values in kernels are coded: the symbols' first count, whether by their neighbours' signs.
WAYS = tuple((prior, contexts) for prior in PRIORS for contexts in (False, True))

#: So many of the values are looked up in the codebook at a time.
PART = 2**20

#: So many of the values are looked at before all are sorted.
GLANCE = 10_000


def code_values(coder, mask: np.ndarray, dtype: np.dtype, values: np.ndarray | None = None):
    """Codes the patterns of the nonzeros of ``mask``; reads them where ``values`` is ``None``.

    ``mask`` is (kernels, height, width) bool, one by one where there are no kernels; ``values``
    (nonzeros,) of the unsigned ``dtype``, in the mask's order. Returns (patterns, levels of the
    codebook, its bits alone as the coder counts them), 0 and 0 without a codebook.
    """
    count = int(np.count_nonzero(mask))
    book, codes = (None, None) if values is None else _levels(values)
    levels = code_number(coder, MOST_LEVELS + 1, None if book is None else len(book))
    if not levels:
        return code_planes(coder, count, dtype, values), 0, 0.0
    before = spent(coder)
    book = code_planes(coder, levels, dtype, book)
    cost = spent(coder) - before
    if mask.shape[1:] == (1, 1) or levels == 1:
        return book[code_symbols(coder, levels, count, codes)], levels, cost
    return book[_code_kernels(coder, mask, _signs(book), codes)], levels, cost


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


def _code_kernels(
    coder, mask: np.ndarray, signs: np.ndarray, codes: np.ndarray | None
) -> np.ndarray:
    """Codes of values in kernels, place by place: how often each comes beside which signs.

    A kernel is smooth: a weight tends to have the sign of those to its left and above it. Their
    sum, −2 … 2, says which of five frequencies count; where it tells little the writer has one.
    """

    def trial(meter: Meter, way: tuple[int, bool]) -> None:
        _code_places(meter, mask, signs, codes, *way)

    way = code_choice(coder, WAYS, None if codes is None else trial)
    return _code_places(coder, mask, signs, codes, *way)


def _code_places(
    coder,
    mask: np.ndarray,
    signs: np.ndarray,
    codes: np.ndarray | None,
    prior: int,
    contexts: bool,
) -> np.ndarray:
    kernels, height, width = mask.shape
    found = np.zeros(mask.shape, np.uint8)
    if codes is not None:
        found[mask] = codes
    signed = np.zeros((kernels, height + 1, width + 1), np.int8)  # of the places so far, padded
    frequencies = [Frequencies(len(signs), prior) for _ in range(5 if contexts else 1)]
    for y in range(height):
        for x in range(width):
            here = mask[:, y, x].nonzero()[0]
            around = signed[here, y + 1, x] + signed[here, y, x + 1] + 2
            for sum_, frequency in enumerate(frequencies):
                chosen = here[around == sum_] if contexts else here
                given = None if codes is None else found[chosen, y, x]
                found[chosen, y, x] = frequency.code(coder, len(chosen), given)
            signed[here, y + 1, x + 1] = signs[found[here, y, x]]
    return found[mask]


def _signs(book: np.ndarray) -> np.ndarray:
    """Of each of the codebook's patterns, −1 or 1: by the first bit, as floats have it."""
    top = 8 * book.dtype.itemsize - 1
    return np.where(book >> np.array(top, book.dtype), -1, 1).astype(np.int8)


def spent(coder) -> float:
    """Bits that the coder counted so far; the others do not count."""
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
