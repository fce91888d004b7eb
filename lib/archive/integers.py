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
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lib.archive.coder import Meter
from lib.archive.symbols import code_choice, code_number, code_symbols

#: Numbers have so many bits at most, the sign one of them.
MOST_BITS = 16

#: A place is foretold from so many before it, by coefficients below 2, of so many binary places.
BEFORE = 8
MOST_UNIT = 6
UNIT = 32

#: Eighths of an octave of the narrowest and the widest curve.
WIDTHS = -64, 8 * (MOST_BITS + 4)

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
    coder,
    size: tuple[int, int, int],
    numbers: np.ndarray | None = None,
    *,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Codes whole numbers of ``size`` (rows, columns, places); reads where ``numbers`` is ``None``.

    ``mask``, of the same size, says which are not zero, where that is known: the others are not
    coded. Returns (rows, columns, places) int32. Cost: some 0.15 µs a number, to read or to write.
    """
    shape = (size[0] * size[1], size[2])
    taken = np.ones(shape[::-1], bool)
    if mask is not None:
        taken = np.ascontiguousarray(mask.reshape(shape).T)
    found = np.zeros(shape[::-1], np.int32)
    if taken.any():
        gap = not taken.all()
        given = None if numbers is None else np.ascontiguousarray(numbers.reshape(shape).T)
        model = _code_model(coder, size, None if given is None else _Fit(given, taken, size))
        model.curve = CURVES[_code_curve(coder, model, given, taken, gap)]
        for place in range(len(found)):
            for start in range(0, shape[0], AT_ONCE):
                part = slice(start, start + AT_ONCE)
                found[place, part] = model.code(coder, found, place, part, taken, gap, given)
    return found.T.reshape(size)


def _code_curve(coder, model: "_Model", given, taken, gap: bool) -> int:
    def trial(meter: Meter, way: int) -> None:
        model.curve = CURVES[way]
        model.code(meter, given, len(given) - 1, slice(0, TRIED), taken, gap, given)

    return code_choice(coder, range(len(CURVES)), None if given is None else trial)


@dataclass
class _Model:
    """What the writer says first, and how numbers are coded by it."""

    low: int  # the numbers' bounds, without their last ``raw`` bits
    high: int
    raw: int
    ahead: np.ndarray  # (places, BEFORE), the last of a row for the place just before
    widths: np.ndarray  # (places,) eighths of an octave
    beside: np.ndarray  # (rows·columns,) quarters of an octave
    curve: np.ndarray = field(default_factory=lambda: CURVES[0])

    def code(self, coder, found, place: int, part: slice, taken, gap: bool, given) -> np.ndarray:
        """One part of a place; ``found`` holds the places before. ``gap``: where nonzeros are."""
        which = taken[place, part].nonzero()[0] if gap else slice(None)
        before = found[max(0, place - BEFORE) : place, part][:, which].astype(np.float64)
        middle = self.ahead[place, BEFORE - len(before) :] @ before  # exact: few whole numbers
        eighths = np.clip(self.widths[place] + 2 * self.beside[part][which], *WIDTHS)
        scale = STEPS / np.ldexp(_EIGHTHS[eighths & 7], eighths >> 3)
        numbers = None if given is None else given[place, part][which]
        if gap and numbers is not None:
            numbers = numbers - (numbers > 0)  # nothing is left between −1 and 1
        numbers = self._narrow(coder, middle, scale, gap, numbers)
        if not gap:
            return numbers
        whole = np.zeros(len(taken[place, part]), np.int32)
        whole[which] = numbers + (numbers >= 0)
        return whole

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
            parts, width = -(-width // size), size
            for k in range(1, parts):
                edge = (first + k * width) << self.raw
                above = (edge > 0) & gap
                f[k] = self._at((edge + above).astype(np.float32) * scale + offset) - above * zero
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


def _code_model(coder, size: tuple[int, int, int], fit: "_Fit | None") -> _Model:
    """What the writer measured, but for the curve."""
    rows, columns, places = size

    def said(name: str) -> Any:
        return None if fit is None else getattr(fit, name)

    bits = code_number(coder, MOST_BITS + 1, said("bits"))
    half = 1 << bits >> 1
    low, high = code_uniform(coder, bits, 2, None if fit is None else fit.bounds + half) - half
    raw = code_number(coder, MOST_BITS, said("raw"))
    ahead = np.zeros((places, BEFORE))
    if places > 1 and code_number(coder, 2, said("foretold")):
        used = _before(places)
        unit = code_number(coder, MOST_UNIT + 1, said("unit"))
        given = None if fit is None else fit.ahead[used]
        ahead[used] = np.ldexp(code_near(coder, int(used.sum()), given).astype(float), -unit)
    widths = code_near(coder, places, said("widths"), bits=9)
    beside = np.zeros((rows, columns), np.int64)
    for axis, count in enumerate((rows, columns)):
        side = None if fit is None else fit.sides[axis]
        if code_number(coder, 2, None if fit is None else int(side is not None)):
            beside += np.expand_dims(code_near(coder, count, side), 1 - axis)
    return _Model(int(low) >> raw, int(high) >> raw, raw, ahead, widths, beside.reshape(-1))


def _before(places: int) -> np.ndarray:
    """(places, BEFORE): which of the places before each there are."""
    return np.tri(places, BEFORE, -1, dtype=bool)[:, ::-1]


class _Fit:
    """What the writer measures in ``given`` (places, rows·columns), where ``taken``."""

    def __init__(self, given: np.ndarray, taken: np.ndarray, size: tuple[int, int, int]):
        coded = given[taken] - (given[taken] > 0) * (not taken.all())
        self.bounds = np.array([coded.min(), coded.max()])
        low, high = map(int, self.bounds)
        self.bits = 1 + max((-low - 1).bit_length() if low < 0 else 0, max(0, high).bit_length())
        rest = self._foretell(given.astype(np.float64), taken)
        power = np.where(taken, rest, 0) ** 2
        mean = power.sum(axis=1) / np.maximum(taken.sum(axis=1), 1)
        # rounding to whole numbers has added 1/12
        deviation = np.sqrt(np.maximum(mean - 1 / 12, 1 / 16))
        self.widths = np.clip(np.rint(8 * np.log2(deviation)), -32, 8 * MOST_BITS).astype(int)
        self.raw = max(0, math.floor(self.widths.mean() / 8 - math.log2(FINE)))
        power = (power / 2.0 ** (self.widths[:, None] / 4)).sum(axis=0).reshape(size[:2])
        self.sides = _sides(power, taken.sum(axis=0).reshape(size[:2]))

    def _foretell(self, values: np.ndarray, taken: np.ndarray) -> np.ndarray:
        """Finds the coefficients; returns what is left of the values."""
        places = len(values)
        self.ahead = np.zeros((places, BEFORE))
        # a coefficient's rounding costs as much as half a bit more of it: 2^−unit = √(12/n)/1.2
        each = max(1.0, taken.sum() / places)
        self.unit = int(np.clip(np.rint(math.log2(each / 8) / 2), 0, MOST_UNIT))
        rest, gain = values.copy(), 0.0
        for place in range(1, places):
            chosen = taken[place]
            x, y = values[max(0, place - BEFORE) : place, chosen], values[place, chosen]
            if len(y) < 2 * BEFORE:
                continue
            gram = x @ x.T
            gram[np.diag_indices_from(gram)] += 1e-3 * (1 + gram.trace() / len(gram))
            a = np.ldexp(np.linalg.solve(gram, x @ y), self.unit)
            a = np.clip(np.rint(a), 1 - (2 << self.unit), (2 << self.unit) - 1)
            self.ahead[place, BEFORE - len(x) :] = a
            e = y - np.ldexp(a, -self.unit) @ x
            rest[place, chosen] = e
            gain += len(y) / 2 * math.log2((y @ y + 1) / (e @ e + 1)) - 5 * len(x)
        self.foretold = int(gain > 0)
        return rest if gain > 0 else values


def _sides(power: np.ndarray, count: np.ndarray) -> list[np.ndarray | None]:
    """Quarters of an octave of the rows' widths, then of the columns'; None where they do not pay.

    ``power`` (rows, columns): the sum of (e/σ)² of ``count`` numbers each.
    """
    sides: list[np.ndarray | None] = [None, None]
    for axis, many in enumerate(power.shape):
        p, n = power.sum(axis=1 - axis), count.sum(axis=1 - axis)
        side = np.clip(np.rint(2 * np.log2((p + 1) / (n + 1))), -40, 40)
        alike = np.unique(side, return_counts=True)[1]
        cost = (alike * np.log2(many / alike)).sum() + 16 + 3 * len(alike)
        # the bits of a normal number: log₂ σ + e²/(2σ²)·log₂ e
        gain = (math.log2(math.e) / 2 * p * (1 - 2 ** (-side / 2)) - n * side / 4).sum()
        if gain > cost:
            sides[axis] = side.astype(int)
            power = power / np.expand_dims(2 ** (side / 2), 1 - axis)
    return sides


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
