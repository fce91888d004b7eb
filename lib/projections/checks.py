"""What projections and methods refuse, with the value, the range and the remedy."""

import math
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def integers(values: Sequence[int] | Tensor, name: str) -> list[int]:
    values = values.tolist() if isinstance(values, Tensor) else list(values)
    try:
        return [operator.index(v) for v in values]
    except TypeError:
        raise ValueError(f"{name} must be integers, got {values}; round them first") from None


def checked_budget(budget: int) -> int:
    (budget,) = integers([budget], "the budget in bits")
    if budget < 0:
        raise ValueError(f"the budget is {budget} bits; it must be 0 or more")
    return budget


def check_floating(weights: Sequence[Tensor]) -> None:
    for i, w in enumerate(weights):
        if not w.is_floating_point():
            raise ValueError(f"layer {i} has dtype {w.dtype}; convert it to a floating dtype")


def check_finite(flat: Sequence[Tensor]) -> None:
    if not flat or bool(torch.stack([w.isfinite().all() for w in flat]).all()):
        return  # one wait for the device; which layer is asked only where there is something to say
    bad = {i: int((~w.isfinite()).sum()) for i, w in enumerate(flat)}
    bad = {i: n for i, n in bad.items() if n}
    if bad:
        where = ", ".join(f"{n} in layer {i}" for i, n in bad.items())
        raise ValueError(
            f"NaN or infinite weights: {where}; they have no projection, find where they came from"
        )


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
) -> None:
    """Refuses NaN, infinity and what is not from ``low`` to ``high``; ``above``, ``low`` too."""
    if not low <= value <= high or value == math.inf or (above and value == low):
        bounds = f"above {low}" if above else f"{low} or more"
        bounds = f"from {low} to {high}" if high < math.inf else f"{bounds}, and finite"
        raise ValueError(f"{name} = {value} must be {bounds}{remedy and f': {remedy}'}")


def whole(name: str, value: object, low: int, high: int, *, remedy: str = "") -> None:
    """Refuses what is no whole number from ``low`` to ``high``."""
    if value not in range(low, high + 1):
        raise ValueError(
            f"{name} = {value} must be a whole number from {low} to {high}"
            + (remedy and f": {remedy}")
        )
