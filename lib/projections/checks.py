"""What the projections refuse, with the value, the range and the remedy."""

import operator
from collections.abc import Sequence

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
