"""Symbols of a small alphabet, by how often each was seen so far; and choices among a few."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from lib.archive.coder import Meter

Way = TypeVar("Way")

#: What a symbol counts before it was seen, in units of 1/32: ½ (Krichevsky and Trofimov's) where
#: most of the alphabet occurs, 1/32 where few do. The writer tries both and says which.
PRIORS = (16, 1)
ONE = 32

#: The writer tries them on this many symbols at most.
TRIED = 2**16

#: The counts are renewed after this share of what was coded, in symbols at least.
SHARE = 8
LEAST_BLOCK = 8


class Frequencies:
    """How often each symbol was seen so far, in a sequence that comes in parts."""

    def __init__(self, alphabet: int, prior: int):
        self.weights = np.full(alphabet, prior, np.int64)
        self.done = 0

    def code(self, coder, count: int, symbols: np.ndarray | None = None) -> np.ndarray:
        """Codes the next ``count`` symbols; reads them where ``symbols`` is ``None``."""
        alphabet = len(self.weights)
        found = np.empty(count, np.min_scalar_type(alphabet - 1))
        start = 0
        while start < count:
            end = min(count, start + max(LEAST_BLOCK, self.done // SHARE))
            given = None if symbols is None else symbols[start:end]
            found[start:end] = coder.symbols(self.weights, end - start, given)
            self.weights += ONE * np.bincount(found[start:end], minlength=alphabet)
            self.done += end - start
            start = end
        return found


def code_symbols(coder, alphabet: int, count: int, symbols: np.ndarray | None = None) -> np.ndarray:
    """Codes ``count`` symbols of 0 … ``alphabet`` − 1; reads them where ``symbols`` is ``None``.

    Within O(alphabet·log count) bits of their zero-order entropy; returns (count,) unsigned
    integers, of one byte where they fit.
    """
    if alphabet == 1 or count == 0:
        return np.zeros(count, np.uint8)

    def trial(meter: Meter, prior: int) -> None:
        tried = np.asarray(symbols)[:TRIED]
        Frequencies(alphabet, prior).code(meter, len(tried), tried)

    prior = code_choice(coder, PRIORS, None if symbols is None else trial)
    return Frequencies(alphabet, prior).code(coder, count, symbols)


def code_number(coder, below: int, number: int | None = None) -> int:
    """Codes one whole number, all of 0 … ``below`` − 1 being as likely."""
    symbols = None if number is None else np.array([number])
    return int(coder.symbols(np.ones(below, np.int64), 1, symbols)[0])


def code_choice(coder, ways: Sequence[Way], trial: Callable[[Meter, Way], object] | None) -> Way:
    """Codes which of ``ways`` is the shortest, by what ``trial`` spends; returns that way."""
    best = None
    if trial is not None:
        meters = [Meter() for _ in ways]
        for meter, way in zip(meters, ways, strict=True):
            trial(meter, way)
        best = min(range(len(ways)), key=lambda place: meters[place].spent)
    return ways[code_number(coder, len(ways), best)]
