"""What a compressed network takes of its budget, counted from its file by itself."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lib import accounting, archive

#: More distinct values than this count as floats of 32 bits.
MOST_LEVELS = 256


class OverBudget(ValueError):
    """A method left more than its budget."""


def check(
    kind: str,
    amount: float,
    content: bytes,
    model: nn.Module,
    *,
    weights: Iterable[str],
    inputs: Any,
    method: str,
) -> None:
    """Refuses a file that holds other weights than ``model``, or more than the budget allows.

    ``weights`` are the names of the tensors that a share or bits are counted of. Nothing that the
    method has counted is used. Raises :class:`OverBudget`, a ``ValueError``.
    """
    state = archive.decode(content).state
    given = model.state_dict()
    same = list(state) == list(given) and all(
        # what is not a number is not equal to itself
        bool(((value == given[name].cpu()) | (value != value)).all())
        for name, value in state.items()
    )
    if not same:
        raise RuntimeError("the file does not hold the weights that were compressed")
    found = {
        "bytes": lambda: len(content),
        "bits": lambda: _bits(state, weights),
        "macs": lambda: accounting.macs(model, inputs),
        "share": lambda: _share(state, weights),
    }[kind]()
    if found > amount:
        raise OverBudget(
            f"{method} left {found:,} ({kind}), more than the {amount:,} of the budget: make it "
            "compress more"
        )


def _share(state: Mapping[str, Tensor], weights: Iterable[str]) -> float:
    """Of the weights, how many are not zero."""
    tensors = [state[name] for name in weights]
    return sum(int((w != 0).sum()) for w in tensors) / max(1, sum(w.numel() for w in tensors))


def _bits(state: Mapping[str, Tensor], weights: Iterable[str]) -> int:
    """Σ max(1, ⌈log₂ distinct nonzero values⌉)·nonzeros, 32 where they are more than 256."""
    total = 0
    for name in weights:
        kept = state[name][state[name] != 0].tolist()
        levels = len(set(kept))
        bits = 32 if levels > MOST_LEVELS else max(1, math.ceil(math.log2(max(1, levels))))
        total += bits * len(kept)
    return total
