"""Weights on a uniform grid: whole numbers times one scale, of the tensor or of each of its rows.

What is looked for is the grid itself, in the values as they are: whoever rounded them need not say
so. A grid is one if float32(scale · number), then rounded to the tensor's dtype, is every value to
the last bit.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib.archive.header import DTYPES, Entry
from lib.archive.integers import MOST_BITS, code_integers, code_near, code_uniform
from lib.archive.symbols import code_number
from lib.archive.values import spent

#: With no more distinct values than these a codebook says as much.
FEW = 4

#: The smallest value of a row is taken for 1, 2, … so many steps of its grid.
SMALLEST = 64

#: So many values of a row, or rows of a tensor, are looked at before all.
GLANCE = 64
FEW_ROWS = 4

#: Scales are looked for in so many of a tensor's values, and of each row's, and proved by all.
SAMPLE, LEAST_SAMPLE = 2**14, 2**10

#: Values proved at once.
PART = 2**18

#: The largest number.
MOST = 2 ** (MOST_BITS - 1) - 1

#: Scales lie within 2^±EXPONENT.
EXPONENT = 255

#: A tensor's kernels have so many places at most that tell of one another.
MOST_PLACES = 128

#: What a place counts as, at least, of what an ``Entry`` claims: places are read one by one.
LEAST_CLAIM = 2**10


@dataclass(frozen=True)
class Grid:
    """Whole numbers (rows, columns) int32; ``scales`` (rows,), or (1,) of all."""

    scales: np.ndarray
    numbers: np.ndarray


@np.errstate(all="ignore")  # values near the largest, or the least, float are on no grid
def find(tensor: Tensor) -> Grid | None:
    """The grid that all values of a tensor of two dimensions or more are on, None without one.

    Of a few distinct values it is none: a codebook says as much. Cost: some passes over the values
    where there is a grid, over a few rows where there is none.
    """
    if tensor.dtype == torch.bool or not tensor.numel():
        return None
    rows = tensor.reshape(len(tensor), -1)
    if not tensor.is_floating_point():
        most = max(abs(int(rows.min())), abs(int(rows.max())))
        return Grid(np.ones(1), rows.numpy().astype(np.int32)) if most <= MOST else None
    for each in (rows.reshape(1, -1), rows):
        alive = each.any(dim=1).nonzero()[:, 0]
        if not _seems_one(each[alive[:: max(1, len(alive) // FEW_ROWS)][:FEW_ROWS]]):
            continue
        sample = rows.reshape(-1)[:: max(1, rows.numel() // 10_000)]
        if len(torch.unique(sample[sample != 0])) <= FEW:
            return None
        for thin in (max(1, each.shape[1] // max(SAMPLE // len(each), LEAST_SAMPLE)), 1):
            scales = _scales(each[:, ::thin])
            numbers = None if scales is None else _numbers(rows, scales)
            if scales is not None and numbers is not None:
                return Grid(scales, numbers) if _uniform(numbers.reshape(each.shape)) else None
            if thin == 1:
                break
    return None


def code_grid(
    coder, tensor: Entry, mask: np.ndarray | None = None, grid: Grid | None = None
) -> tuple[np.ndarray, int, float]:
    """Codes a grid; reads it where it is ``None``. ``mask`` (n,): where nonzeros are, if known.

    Returns the patterns of its values (n,), how many numbers but 0 occur, and the bits of the
    scales as the coder counts them.
    """
    before = spent(coder)
    rows = tensor.shape[0]
    many = code_number(coder, 2, None if grid is None else int(len(grid.scales) > 1))
    scales = _code_scales(coder, rows if many else 1, None if grid is None else grid.scales)
    cost = spent(coder) - before
    size = _size(tensor)
    numbers = code_integers(
        coder,
        size,
        None if grid is None else grid.numbers.reshape(size),
        mask=None if mask is None else mask.reshape(size),
    ).reshape(rows, -1)
    values = _values(scales, numbers, DTYPES[tensor.dtype])
    patterns = values.reshape(-1).view(torch.uint8).numpy().view(tensor.pattern)
    occur = np.bincount((numbers - numbers.min()).reshape(-1)) > 0
    return patterns, int(occur.sum()) - bool(0 in numbers), cost


def _size(tensor: Entry) -> tuple[int, int, int]:
    """Rows, columns and places of the kernels of a tensor, of one place where they are large."""
    rows, columns, *kernel = tensor.shape
    places = math.prod(kernel)
    if 1 < places <= MOST_PLACES and tensor.claim >= LEAST_CLAIM * places:
        return rows, columns, places
    return rows, columns * places, 1


def _code_scales(coder, count: int, scales: np.ndarray | None = None) -> np.ndarray:
    """Codes positive scales: their exponents, and as many bits of all as one needs at most."""
    exponents = bits = rest = None
    if scales is not None:
        fractions, exponents = np.frexp(scales)  # ½ ≤ fraction < 1
        whole = (fractions * 2.0**53).astype(np.int64)
        bits = 53 - int(min(53, _trailing(np.bitwise_or.reduce(whole))))
        rest = (whole >> (53 - bits)) - (1 << (bits - 1))
    found = code_near(coder, count, exponents, bits=9)
    bits = code_number(coder, 54, bits)
    if not bits:
        return np.ones(count)
    rest = code_uniform(coder, bits - 1, count, rest)
    return np.ldexp((rest + (1 << (bits - 1))).astype(np.float64), found - bits)


def _trailing(number: int) -> int:
    """Zeros at the end of its binary digits."""
    return (int(number) & -int(number)).bit_length() - 1


def _values(scales: np.ndarray, numbers: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Exact products, rounded to float32, and then to the dtype."""
    return torch.from_numpy(scales[:, None] * numbers).float().to(dtype)


def _uniform(numbers: np.ndarray) -> bool:
    """Whether the numbers of most rows are fine where they are large, as those of a grid are.

    Floats of few significant bits are multiples of the smallest step among them, too; but no large
    one is odd.
    """
    sizes = np.abs(numbers)
    most = sizes.max(axis=1)
    large = most >= 3  # of less than 3 nothing can be told
    beyond = 2 ** (np.ceil(np.log2(np.maximum(most, 1))) - 1)  # up to twice it, all are below most
    fine = ((sizes % 2 == 1) & (sizes >= beyond[:, None])).any(axis=1)
    return bool(np.count_nonzero(fine & large) * 2 >= np.count_nonzero(large))


def _numbers(rows: Tensor, scales: np.ndarray) -> np.ndarray | None:
    """The numbers of all values; None where one is not a product of its own and its scale."""
    numbers = np.empty(rows.shape, np.int32)
    height = max(1, PART // rows.shape[1])
    for start in range(0, len(rows), height):
        part = slice(start, start + height)
        of = scales[part] if len(scales) > 1 else scales
        found = np.rint(rows[part].double().numpy() / of[:, None])
        if not np.abs(found).max() <= MOST or not _values(of, found, rows.dtype).equal(rows[part]):
            return None
        numbers[part] = found
    return numbers


def _steps(values: Tensor) -> np.ndarray:
    """(rows, SMALLEST): what a step of each row's grid may be, the largest first."""
    sizes = values.abs()
    smallest = torch.where(sizes > 0, sizes, math.inf).amin(dim=1).double().numpy()
    return smallest[:, None] / np.arange(1, SMALLEST + 1)


def _near(sizes: np.ndarray, step: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Whether all ``sizes`` of the last axis are nearly multiples of the steps, none too large."""
    # what both the smallest and the other value may have been rounded by, and a little more
    slack = 2.5 * 2.0 ** -_digits(dtype)
    times = sizes / step
    return ((np.abs(times - np.rint(times)) <= slack * times) & (times < MOST + 0.5)).all(axis=-1)


def _seems_one(values: Tensor) -> bool:
    """Whether some values of each row seem to be on a grid; False without a value."""
    if not len(values) or not values.isfinite().all():
        return False
    seen = values[:, :: max(1, values.shape[1] // GLANCE)].double().abs().numpy()
    near = _near(seen[:, None], _steps(values)[..., None], values.dtype)
    return bool(near.any(axis=1).all())


def _scales(values: Tensor) -> np.ndarray | None:
    """A scale for each row of which its values are products; None where a row has none."""
    if not values.isfinite().all():
        return None
    sizes, dtype = values.double().abs().numpy(), values.dtype
    steps, scales = _steps(values), np.zeros(len(sizes))
    scales[np.isinf(steps[:, 0])] = 1  # of zeros alone
    for step in steps.T:
        left = (scales == 0).nonzero()[0]
        if not len(left):
            break
        seen = sizes[left, :: max(1, sizes.shape[1] // GLANCE)]
        which = left[_near(seen, step[left, None], dtype)]
        if len(which):
            scales[which] = _scale(sizes[which], step[which, None], dtype)
    return scales if scales.all() else None


def _scale(sizes: np.ndarray, step: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Each row's scale of fewest digits, which is near ``step`` (rows, 1); 0 without one."""
    digits = _digits(dtype)
    half = np.ldexp(1.0, np.frexp(sizes)[1] - digits - 1)  # of the last digit
    small = sizes < 2.0 ** (digits - 5) * step
    if not small.all():  # numbers of the larger ones are sure once the smaller ones say the scale
        low, high = _bounds(sizes, half, np.where(small, np.rint(sizes / step), 0))
        step = ((low + high) / 2)[:, None]
    count = np.rint(sizes / step)
    low, high = _bounds(sizes, half, count)
    found = np.zeros(len(sizes))
    exponent = np.frexp(high)[1]
    wanted = torch.from_numpy(sizes).to(dtype)
    for bits in range(1, digits + 8):  # what a few values leave open, more digits may fit
        unit = np.ldexp(1.0, exponent - bits)
        for tried in (np.ceil(low / unit) * unit, np.floor(high / unit) * unit):
            which = ((found == 0) & (tried >= low) & (tried <= high)).nonzero()[0]
            if len(which):
                made = _values(tried[which], count[which], dtype)
                found[which] = np.where((made == wanted[which]).all(dim=1).numpy(), tried[which], 0)
        if found.all():
            break
    return found


def _bounds(
    sizes: np.ndarray, half: np.ndarray, count: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Between which scales each row's values are these numbers, to half a last digit."""
    low = np.where(count > 0, (sizes - half) / count, 0).max(axis=1)
    high = np.where(count > 0, (sizes + half) / count, np.inf).min(axis=1)
    return low * (1 - 2.0**-51), high * (1 + 2.0**-51)


def _digits(dtype: torch.dtype) -> int:
    """Significant binary digits of a product, which is rounded to float32 first."""
    return min(24, 1 - round(math.log2(torch.finfo(dtype).eps)))
