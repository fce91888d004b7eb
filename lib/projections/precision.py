"""Floats with fewer significant bits, which an entropy coder stores in fewer bits."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def round_to(values: Tensor, significant: int) -> Tensor:
    """The nearest floats with ``significant`` leading bits, ties to even; exact.

    Parameters
    ----------
    values : Tensor
        Any shape and dtype.
    significant : int
        Bits, 1 or more.

    Returns
    -------
    Tensor
        New, of the same shape and dtype. What is not finite stays as it is, but negative zero
        becomes zero, which costs a file nothing. Integers and booleans are returned as they are.

    Notes
    -----
    Linear, some eighteen launches, no wait for the device.
    """
    if not values.is_floating_point():
        return values
    wide = values if values.dtype == torch.float64 else values.float()
    mantissa, exponent = torch.frexp(wide)  # 0.5 ≤ |mantissa| < 1
    nearest = (mantissa * 2**significant).round() / 2**significant
    # 2^e in two factors, which no e of a float takes out of its range
    half = exponent // 2
    nearest = nearest * _power(half, wide.dtype) * _power(exponent - half, wide.dtype)
    return torch.where(values.isfinite(), nearest.to(values) + 0, values)  # −0 + 0 = 0


def _power(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """2^e by its bits: exact on every device, as its ``pow`` need not be."""
    if dtype == torch.float64:
        return ((exponent.long() + 1023) << 52).view(torch.float64)
    return ((exponent + 127) << 23).view(torch.float32)


def rounded(state: Mapping[str, Tensor], *, matrices: int, others: int) -> dict[str, Tensor]:
    """New tensors: those of two dimensions or more, and the others, to so many significant bits."""
    return each(state, lambda value: round_to(value, matrices if value.dim() > 1 else others))


def each(state: Mapping[str, Tensor], function: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """``function`` of every tensor; names that share one tensor share its image, too."""
    images: dict[tuple, Tensor] = {}
    found = {}
    for name, value in state.items():
        # an empty tensor lies nowhere, so its name stands for it
        place = (value.data_ptr() or name, value.shape, value.stride(), value.dtype)
        if place not in images:
            images[place] = function(value)
        found[name] = images[place]
    return found
