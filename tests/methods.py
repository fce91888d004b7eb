"""A method of each kind in the registry, made from its signature: an added one is made here too."""

import inspect
import re
from dataclasses import replace

import torch
from torch import nn

from lib import accounting, data
from lib.layers import compressible
from lib.optimizers import METHODS
from lib.optimizers.c_steps import COSTS, L0, Codebook
from lib.training.method import Method

NETWORK, SHAPE = "resnet8", (1, 16, 16)

#: What else a method is tried with, beside its defaults.
VARIANTS = {
    "admm": {
        "growing": {"rho": 0.5, "growth": 1.5, "periods_per_epoch": 2},
        "prune": {"mode": "prune", "bits": 4},
        "quantize": {"mode": "quantize", "bits": 3},
        "held": {"fading": True, "hold_after": 2, "average_after": 1, "periods_per_epoch": 2},
    },
    "tune-codebooks": {
        "3 bits": {"bits": 3},
        "3 bits, zero too": {"bits": 3, "free_zero": False},
        "reassigned": {"bits": 2, "reassign": True},
    },
    "lc": {
        "mixed": {
            "parts": {"stem.conv": Codebook(4), ("stage1.0.conv1", "fc"): L0(0.2)},
            "mu": 0.01,
        },
        "shared": {"cost": "codebook", "amount": 4, "scope": "layer", "mu": 0.01},
    },
    "magnitude": {"gradual": {"epochs": 1}, "random": {"order": "random", "scope": "layer"}},
    "df": {
        "filters": {"mode": "filters"},
        "ranks": {"mode": "ranks"},
        "batch": {"statistics": "batch", "straight_through": True, "scheme": 2, "count": "built"},
        "penalty alone": {"multiplier": False, "penalty": 1.0},
    },
    "low-rank": {"uniform": {"criterion": "uniform"}},
    "filter-pruning": {"group": {"score": "group-magnitude"}},
}

#: (method, variant), "" for the defaults.
CASES = [(name, variant) for name in METHODS for variant in ("", *VARIANTS.get(name, ()))]


def make(name: str, variant: str, model: nn.Module, **changed: object) -> Method:
    """The method for ``model``, a ``NETWORK``; it changes nothing of the model but its weights."""
    kind, options = METHODS[name], VARIANTS.get(name, {}).get(variant, {}) | changed
    weights = sum(w.numel() for w in compressible(model).values())
    bits = options.pop("bits", 0.5) if name == "admm" else 0.5
    wanted, empty = parameters(kind), inspect.Parameter.empty
    macs = accounting.macs(model, SHAPE) if "input_shape" in wanted else 0
    values = {
        "budget": macs // 2 or int(bits * weights),
        "file_bytes": 20_000,
        "keep": 0.3,
        "cost": "l0-constraint",
        "amount": 0.3,
    }
    place = {"input_shape": SHAPE, "network": NETWORK, "classes": 10, "channels": 1}
    for parameter, default in wanted.items():
        if parameter in place:
            options[parameter] = place[parameter]
        elif default is empty or (parameter in ("cost", "amount") and "parts" not in options):
            options.setdefault(parameter, values[parameter])
    if wanted.get("periods_per_epoch", 1) > 2:
        options.setdefault("periods_per_epoch", 2)
    if name == "tune-codebooks" and "bits" not in options:
        quantize(model)
    while True:
        try:
            return kind(**options)
        except TypeError as error:  # what it gives to the one that it is made of
            fixed = re.search(r"multiple values for keyword argument '(\w+)'", str(error))
            if fixed is None:
                raise
            del options[fixed[1]]


def images(device: torch.device | str = "cpu", size: int = SHAPE[1]) -> data.Dataset:
    """Seventy-two digits: of sixteen a step, four full batches an epoch and one of eight."""
    whole = data.load("digits", size=size)
    few = (data.Split(part.images[:72], part.labels[:72]) for part in (whole.train, whole.test))
    return replace(whole, **dict(zip(("train", "test"), few, strict=True))).to(device)


def parameters(kind: type) -> dict[str, object]:
    """Name → default of what the method and the methods that it is made of take."""
    found: dict[str, object] = {}
    for owner in kind.__mro__[:-1]:
        if "__init__" in vars(owner):
            own = list(inspect.signature(owner.__init__).parameters.values())[1:]
            named = [p for p in own if p.kind is not p.VAR_KEYWORD]
            found = {p.name: p.default for p in named} | found
            if len(named) == len(own):
                break
    return found


def amount(cost: str) -> object:
    """One that the cost takes: a share or α, a number of values, or both."""
    for value in (0.3, 4, [4, 0.05]):
        try:
            COSTS[cost].bound([], value)
        except ValueError:
            continue
        return value
    raise ValueError(f"no amount is known for the cost {cost!r}: give one here")


@torch.no_grad()
def quantize(model: nn.Module) -> None:
    """Puts the weights on a grid, so that there are values to share, and zeros."""
    for weight in compressible(model).values():
        unit = weight.std()
        weight.copy_((weight / unit).round().clamp(-2, 2) * unit)
