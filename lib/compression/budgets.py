"""Budgets as people write them: a file's size, bits, multiply-accumulates, or a share."""

import re
from numbers import Real
from typing import Any

from torch import nn

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MACS = {"MACs": 1, "kMACs": 10**3, "MMACs": 10**6, "GMACs": 10**9}

#: A number: groups of three digits by commas, or digits with underscores; a point before decimals.
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?|\.[0-9]+"


def parse(budget: str | float, model: nn.Module) -> tuple[str, Any]:
    """(kind, amount) of a budget for ``model``: ``bytes``, ``bits``, ``macs`` or a ``share``.

    Decimals stand after a point. A comma separates groups of three digits and nothing else:
    ``"1,500 kB"`` is 1.5 MB, and ``"1,5 MB"`` is refused. Raises ``ValueError`` for what is none.
    """
    wrong = ValueError(
        f"budget {budget!r} is none: give '100 kB', '30x', '80000 bits', '20 MMACs', '5 %' or 0.05"
    )
    if isinstance(budget, Real) and not isinstance(budget, bool):
        if not 0 < budget < 1:
            raise ValueError(
                f"a share of {budget} weights must be between 0 and 1; bytes need a unit"
            )
        return "share", float(budget)
    found = re.fullmatch(rf"\s*({_NUMBER})\s*([^\s0-9.,_]+)\s*", str(budget))
    if not found:
        if isinstance(budget, str) and re.search(r"[0-9],[0-9]", budget):
            raise ValueError(
                f"budget {budget!r} is none: decimals stand after a point (1.5 MB), a comma only "
                "before groups of three digits (1,500 kB)"
            )
        raise wrong
    number, unit = float(found[1].replace(",", "").replace("_", "")), found[2]
    if not number > 0:
        raise wrong
    if unit in _UNITS:
        return "bytes", int(number * _UNITS[unit])
    if unit in _MACS:
        return "macs", int(number * _MACS[unit])
    if unit in ("x", "×"):
        return "bytes", int(dense_bytes(model) / number)
    if unit == "bits":
        return "bits", int(number)
    if unit == "%" and number < 100:
        return "share", number / 100
    raise wrong


def dense_bytes(model: nn.Module) -> int:
    """All values that inference reads, as float32; shared ones once."""
    tensors = {value.data_ptr(): value for value in model.state_dict().values()}
    return 4 * sum(value.numel() for value in tensors.values() if value.is_floating_point())
