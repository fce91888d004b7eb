"""Whole numbers of a grid: each by a bell curve, whose middle its kernel's other places foretell.

A trained layer's weights are drawn, as it were, from a bell curve as wide as their row and column
say, and in a kernel one place tells of the next. So place after place is coded, each number q as
the share of the curve that it covers:

    p(q) = F((q + ½ − μ)/σ) − F((q − ½ − μ)/σ),   μ = Σⱼ aⱼ·qⱼ over the places before,
    σ = 2^((s + r + c)/4)   of its place, its row and its column.

The writer measures a, s, r, c, picks F among ``CURVES``, and says them first. A number is coded by
halving the numbers that are left until one is.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from lib.archive.coder import Meter
from lib.archive.symbols import code_choice, code_number, code_symbols

#: Numbers have so many bits at most, the sign one of them.
MOST_BITS = 16

#: A place is foretold from so many before it, by coefficients in units of 1/32, below 2.
BEFORE = 8
UNIT = 32

#: The curves' tables: so many steps a σ, so many σ to each side.
STEPS, REACH = 256, 16

#: The numbers that are left are split into so many parts at a time.
PARTS = 16

#: A curve's whole, in the units of its table: a part that it hardly covers counts as one.
ONE = 2**30

#: Numbers coded at once: they stay in the processor's cache.
AT_ONCE = 2**14

#: The last bits of wide numbers are coded as they are: so many that 4 to 8 of what is left make σ.
FINE = 4

#: The writer picks the curve by so many numbers.
TRIED = 2**13


def _exp(y: np.ndarray) -> np.ndarray:
    """About e^−y, y ≥ 0, of what IEEE 754 rounds alike everywhere."""
    power = 1 / (1 + y / 4096)
    for _ in range(12):
        power = power * power
    return power


def _curve(half: np.ndarray) -> np.ndarray:
    return np.concatenate([half[:0:-1], 1 - half])


_X = np.arange(REACH * STEPS + 1) / STEPS

#: The distribution functions at −REACH … REACH, of deviation 1: normal, logistic and Laplace's.
CURVES = np.stack(
    [
        _curve(1 - 1 / (1 + _exp(1.5976 * _X + 0.070566 * _X * _X * _X))),
        _curve(1 - 1 / (1 + _exp(1.8138 * _X))),
        _curve(_exp(1.4142 * _X) / 2),
    ]
)
CURVES = np.rint(ONE * CURVES).astype(np.int32)

#: 2^(n/8), of square roots.
_EIGHTHS = np.sqrt(np.sqrt(np.sqrt(2.0))) ** np.arange(8)


def code_integers(
    coder, size: tuple[int, int, int], numbers: np.ndarray | None = None, *, mask=None
) -> np.ndarray:
    """Codes whole numbers of ``size`` (rows, columns, places); reads where ``numbers`` is ``None``.

    ``mask``, of the same size, says which are not zero, where that is known: the others are not
    coded. Returns (rows, columns, places) int32. Cost: some 0.2 µs a number.
    """
    rows, columns, places = size
    shape = (rows * columns, places)
    known = None if mask is None else np.ascontiguousarray(mask.reshape(shape).T)
    given = None if numbers is None else np.ascontiguousarray(numbers.reshape(shape).T, np.int32)
    if known is not None and not known.any():
        return np.zeros(size, np.int32)
    model = _code_model(coder, size, given, known)
    found = np.zeros(shape[::-1], np.int32)
    for place, part in _parts(*found.shape):
        model.code(coder, found, place, part, given, known)
    return found.T.reshape(size)


def _parts(places: int, count: int) -> Iterator[tuple[int, slice]]:
    for place in range(places):
        for start in range(0, count, AT_ONCE):
            yield place, slice(start, min(count, start + AT_ONCE))


class _Model:
    """What the writer says first, and how numbers are coded by it."""

    def __init__(self, low, high, raw, ahead, place_scales, scales):
        self.low, self.high, self.raw = low >> raw, high >> raw, raw
        self.ahead = ahead  # (places, BEFORE), the last of a row for the place just before
        self.place_scales, self.scales = place_scales, scales  # (places,), (rows·columns,)
        self.curve = CURVES[0]

    def code(self, coder, found, place, part, given, known) -> None:
        """One part of a place; ``found`` holds the places before, and gets it."""
        which = slice(None) if known is None else known[place, part].nonzero()[0]
        before = found[max(0, place - BEFORE) : place, part][:, which]
        ahead = self.ahead[place, BEFORE - len(before) :]
        middle = ahead @ before.astype(np.float64)  # exact: sums of whole numbers
        eighths = self.place_scales[place] + 2 * self.scales[part][which].astype(np.int64)
        scale = STEPS / np.ldexp(_EIGHTHS[eighths & 7], eighths >> 3)
        numbers = None if given is None else given[place, part][which]
        if known is not None and numbers is not None:
            numbers = numbers - (numbers > 0)  # nothing is left between −1 and 1
        numbers = self._narrow(coder, middle, scale, known is not None, numbers)
        if known is not None:
            numbers = numbers + (numbers >= 0)
        found[place, part][which] = numbers

    def _narrow(self, coder, middle, scale, gap: bool, numbers: np.ndarray | None) -> np.ndarray:
        """Numbers of the curves with these middles, of STEPS / ``scale``; ``gap``: without 0."""
        scale = scale.astype(np.float32)
        offset = np.float32(REACH * STEPS) - (middle.astype(np.float32) + np.float32(0.5)) * scale
        zero: Any = np.int32(0)
        if gap:
            zero = self._at(offset + scale) - self._at(offset)
        wanted = None if numbers is None else numbers >> self.raw
        first = np.full(len(middle), self.low, np.int32)
        f = np.empty((PARTS + 1, len(middle)), np.int32)
        f[0], f[-1] = 0, ONE - zero
        width = self.high + 1 - self.low
        every = np.arange(len(middle))
        while width > 1:
            size = -(-width // min(width, PARTS))
            parts = -(-width // size)
            width = size
            for k in range(1, parts):
                edge = (first + k * width) << self.raw
                if gap:
                    positive = edge > 0
                    at = self._at((edge + positive).astype(np.float32) * scale + offset)
                    f[k] = at - zero * positive
                else:
                    f[k] = self._at(edge.astype(np.float32) * scale + offset)
            f[parts] = f[-1]
            np.minimum(f[1:parts], f[-1], out=f[1:parts])  # parts reach beyond what is left
            weights = np.ascontiguousarray((f[1 : parts + 1] - f[:parts]).T) + 1.0
            given = None if wanted is None else (wanted - first) // width
            which = coder.classes(weights, given)
            first = first + np.int32(width) * which
            f[0], f[-1] = f[which, every], f[which + 1, every]
        if not self.raw:
            return first
        last = None if numbers is None else numbers & ((1 << self.raw) - 1)
        return (first << self.raw) | code_uniform(coder, self.raw, len(first), last)

    def _at(self, steps: np.ndarray) -> np.ndarray:
        """The curve so many steps from its left end."""
        return self.curve[np.minimum(np.maximum(steps, 0), len(self.curve) - 1).astype(np.intp)]


def _code_model(coder, size, given, known) -> _Model:
    rows, columns, places = size
    fit = None if given is None else _Fit(given, known, size)
    bits = code_number(coder, MOST_BITS + 1, None if fit is None else fit.bits)
    bounds = code_uniform(coder, bits, 2, None if fit is None else fit.range + (1 << bits >> 1))
    low, high = bounds - (1 << bits >> 1)
    raw = code_number(coder, MOST_BITS, None if fit is None else fit.raw)
    ahead = np.zeros((places, BEFORE))
    foretold = (
        code_number(coder, 2, None if fit is None else int(fit.foretold)) if places > 1 else 0
    )
    if foretold:
        used = np.tri(places, BEFORE, -1, dtype=bool)[:, ::-1]
        count = int(used.sum())
        unit = code_number(coder, 7, None if fit is None else fit.unit)
        ahead[used] = code_near(coder, count, None if fit is None else fit.ahead[used])
        ahead /= 1 << unit
    place_scales = code_near(coder, places, None if fit is None else fit.place_scales, bits=9)
    scales = np.zeros(rows * columns, np.int16)
    for axis, count in enumerate((rows, columns)):
        said = code_number(coder, 2, None if fit is None else int(fit.sides[axis] is not None))
        if said:
            side = code_near(coder, count, None if fit is None else fit.sides[axis])
            side = side.astype(np.int16)
            scales += np.repeat(side, columns) if axis == 0 else np.tile(side, rows)
    model = _Model(int(low), int(high), raw, ahead, place_scales, scales)
    trial = None
    if given is not None:

        def trial(meter: Meter, way: int) -> None:
            model.curve = CURVES[way]
            part = slice(0, min(TRIED, given.shape[1]))
            model.code(meter, given.copy() if False else given, places - 1, part, given, known)

    model.curve = CURVES[code_choice(coder, range(len(CURVES)), trial)]
    return model


class _Fit:
    """What the writer measures."""

    def __init__(self, given, known, size):
        rows, columns, places = size
        values = given.astype(np.float64)
        taken = np.ones(given.shape, bool) if known is None else known
        bounds = given[taken]
        self.range = np.array([bounds.min(), bounds.max()])
        if known is not None:
            self.range -= self.range > 0
        low, high = map(int, self.range)
        self.bits = max((-low - 1).bit_length() + 1 if low < 0 else 0, high.bit_length() + 1)
        self.ahead = np.zeros((places, BEFORE))
        rest = values.copy()
        gain = 0.0
        self.unit = int(
            np.clip(np.rint(math.log2(max(1, taken.sum() / places * 1.5 / 12)) / 2), 0, 6)
        )
        for place in range(1, places):
            chosen = taken[place]
            if chosen.sum() < 2 * BEFORE:
                continue
            first = max(0, place - BEFORE)
            x, y = values[first:place, chosen], values[place, chosen]
            gram = x @ x.T
            gram[np.diag_indices_from(gram)] += 1e-3 * (1 + gram.trace() / len(gram))
            UNIT = 1 << self.unit
            a = np.clip(np.rint(UNIT * np.linalg.solve(gram, x @ y)), 1 - 2 * UNIT, 2 * UNIT - 1)
            self.ahead[place, BEFORE - len(x) :] = a
            rest[place] = values[place] - a @ values[first:place] / UNIT
            e = rest[place, chosen]
            gain += len(y) / 2 * math.log2((y @ y + 1) / (e @ e + 1)) - 5 * len(x)
        self.foretold = gain > 0
        if not self.foretold:
            rest = values
        power = np.where(taken, rest, 0) ** 2
        counts = taken.sum(axis=1)
        mean = power.sum(axis=1) / np.maximum(counts, 1)
        scale = np.sqrt(np.maximum(mean - 1 / 12, 1 / 16))
        self.place_scales = np.clip(np.rint(8 * np.log2(scale)), -32, 8 * MOST_BITS).astype(int)
        scale = 2.0 ** (self.place_scales / 8)
        self.raw = max(0, math.floor(np.log2(scale).mean() - math.log2(FINE)))
        self.sides = [None, None]
        power = power / (scale**2)[:, None]
        whole, many = (
            power.sum(axis=0).reshape(rows, columns),
            taken.sum(axis=0).reshape(rows, columns),
        )
        for axis in (0, 1):
            if whole.shape[axis] < 2:
                continue
            s, n = whole.sum(axis=1 - axis), many.sum(axis=1 - axis)
            side = np.rint(2 * np.log2((s + 1) / (n + 1)))  # quarters of an octave
            side = np.clip(side, -40, 40)
            _, alike = np.unique(side, return_counts=True)
            cost = (alike * np.log2(alike.sum() / alike)).sum() + 16 + len(alike) * 3
            gain = (math.log2(math.e) / 2 * s * (1 - 2.0 ** (-side / 2)) - n * side / 4).sum()
            if gain > cost:
                self.sides[axis] = side.astype(int)
                factor = 2.0 ** (side / 2)
                whole = whole / (factor[:, None] if axis == 0 else factor)


def code_near(coder, count: int, numbers: np.ndarray | None = None, *, bits: int = 8) -> np.ndarray:
    """Codes ``count`` whole numbers that lie near one another; within ±2^(``bits`` − 1)."""
    base = 1 << (bits - 1)
    low = span = None
    if numbers is not None:
        numbers = np.asarray(numbers).astype(np.int64)
        low, span = int(numbers.min()), int(numbers.max() - numbers.min())
    low = (
        int(code_uniform(coder, bits, 1, None if low is None else np.array([low + base]))[0]) - base
    )
    span = int(code_uniform(coder, bits, 1, None if span is None else np.array([span]))[0])
    given = None if numbers is None else numbers - low
    if span > 255:
        return low + code_uniform(coder, bits, count, given).astype(np.int64)
    return low + code_symbols(coder, span + 1, count, given).astype(np.int64)


def code_uniform(coder, bits: int, count: int, numbers: np.ndarray | None = None) -> np.ndarray:
    """Codes ``count`` numbers of 0 … 2^``bits`` − 1, all alike likely."""
    found = np.zeros(count, np.int64)
    for start in range(0, bits, 8):
        width = min(8, bits - start)
        given = None if numbers is None else (numbers >> start) & ((1 << width) - 1)
        symbols = coder.symbols(np.ones(1 << width, np.int64), count, given)
        found |= symbols.astype(np.int64) << start
    return found
