"""What projections and methods refuse, with the value, the range and the remedy."""

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def integers(
    values: Sequence[int] | Tensor,
    name: str,
    *,
    layers: int | None = None,
    low: int = 0,
    high: float = math.inf,
    remedy: str = "",
) -> list[int]:
    """The values as Python's integers, each from ``low`` to ``high``, and one per layer if asked.

    Raises
    ------
    ValueError
        For fractions, numbers out of range, and another number of values than ``layers``.
    """
    values = values.tolist() if isinstance(values, Tensor) else list(values)
    if layers is not None:
        one_each(name, values, layers)
    return [whole(f"{name}[{i}]", v, low, high, remedy=remedy) for i, v in enumerate(values)]


def one_each(name: str, values: Sequence, layers: int) -> None:
    """Refuses more or fewer values than layers."""
    if len(values) != layers:
        raise ValueError(f"{name} has {len(values)} entries for {layers} layers; give one for each")


def shaped(
    name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype, *, remedy: str
) -> None:
    """Refuses a tensor of another shape or dtype."""
    if (tensor.shape, tensor.dtype) != (tuple(shape), dtype):
        raise ValueError(
            f"{name} is {tuple(tensor.shape)} {tensor.dtype}; it must be {tuple(shape)} {dtype}: "
            + remedy
        )


def check_floating(weights: Sequence[Tensor]) -> None:
    """Refuses layers of integers or booleans."""
    for i, w in enumerate(weights):
        if not w.is_floating_point():
            raise ValueError(f"layer {i} has dtype {w.dtype}; convert it to a floating dtype")


def check_finite(flat: Sequence[Tensor]) -> None:
    """Refuses NaN and infinite weights, and says how many each layer has."""
    if not flat or bool(torch.stack([w.isfinite().all() for w in flat]).all()):
        return  # one wait for the device; which layer is asked only where there is something to say
    bad = {i: int((~w.isfinite()).sum()) for i, w in enumerate(flat)}
    where = ", ".join(f"{n} in layer {i}" for i, n in bad.items() if n)
    raise ValueError(
        f"NaN or infinite weights: {where}; they have no projection, find where they came from"
    )


def penalty(alpha: float, mu: float) -> tuple[float, float]:
    """The numbers of a penalty's C step, 0 ≤ α < ∞ and 0 < μ < ∞; ``ValueError`` for others."""
    tie = "μ alone ties θ to the weights"
    return within("alpha", alpha, 0), within("mu", mu, 0, above=True, remedy=tie)


def one_of(name: str, value: object, choices: Iterable[object]) -> None:
    choices = list(choices)
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise ValueError(f"unknown {name} {value!r}: choose one of {listed}")


def within(
    name: str,
    value: float,
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    remedy: str = "",
) -> float:
    """The value; refuses NaN, infinity and what is not from ``low`` to ``high``.

    With ``above``, ``low`` too.
    """
    if not low <= value <= high or value == math.inf or (above and value == low):
        bounds = f"above {low}" if above else f"{low} or more"
        bounds = f"from {low} to {high}" if high < math.inf else f"{bounds}, and finite"
        raise ValueError(f"{name} = {value} must be {bounds}{remedy and f': {remedy}'}")
    return float(value)


def whole(name: str, value: Any, low: int = 0, high: float = math.inf, *, remedy: str = "") -> int:
    """The value as an ``int``; refuses what is no whole number from ``low`` to ``high``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        bounds = f"of {low} or more" if high == math.inf else f"from {low} to {high}"
        raise ValueError(
            f"{name} = {value} must be a whole number {bounds}{remedy and f': {remedy}'}"
        )
    return number
