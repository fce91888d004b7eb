"""Which methods serve which kind of budget, and with what options."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from lib.optimizers import ADMM, DF, LC, METHODS, FilterPruning, MagnitudePruning
from lib.optimizers.byte_budget import FileADMM
from lib.training import Schedule
from lib.training.method import Method

#: Σ αρ over a run of ADMM, and how many times ρ rises during it: chosen, with the rate, on images
#: held out of digits (LeNet-5 and ResNet-8, 15 to 20 epochs, one seed).
PULL, RISE = 10.0, 20.0

#: How many times LC's μ rises.
LC_RISE = 200.0


def chosen(method: str | None, kind: str) -> Callable[[Any, float, Schedule], Method]:
    """What makes the method of this name for a budget of this kind, of a job, amount, schedule."""
    added = {
        name: lambda job, amount, _, made=made: made(**{made.takes[kind]: amount})
        for name, made in METHODS.items()
        if kind in made.takes
    }
    choices = CHOICES[kind] | added
    method = next(iter(choices)) if method is None else method
    if method not in choices:
        raise ValueError(
            f"{method!r} takes no budget of {kind}: choose one of {', '.join(choices)}"
        )
    return choices[method]


def _pull(bits: float, job: Any, schedule: Schedule) -> dict[str, Any]:
    """ADMM's options for a budget of so many bits."""
    steps = schedule.epochs * job.steps
    return {
        # Σ αρ = PULL: the cosine's mean is half its first rate, the mean of ρ that rises from
        # 1 to RISE is (RISE − 1)/ln RISE
        "rho": PULL / (steps * schedule.lr / 2) * math.log(RISE) / (RISE - 1),
        "growth": RISE ** (1 / schedule.epochs),
        "start_bits": min(8, 1 + math.ceil(max(1, bits / job.weights))),
    }


def _admm(job: Any, bits: int, schedule: Schedule) -> Method:
    return ADMM(budget=bits, **_pull(bits, job, schedule))


def _file(job: Any, size: int, schedule: Schedule) -> Method:
    options = {"input_shape": job.inputs, "as_written": job.as_written, **job.described}
    return FileADMM(file_bytes=size, **options, **_pull(8 * size, job, schedule))


def _gradual(job: Any, share: float, schedule: Schedule) -> Method:
    return MagnitudePruning(keep=share, epochs=max(1, schedule.epochs - 1))


def _lc(job: Any, share: float, schedule: Schedule) -> Method:
    return LC(cost="l0-constraint", amount=share, growth=LC_RISE ** (1 / schedule.epochs))


def _structured(made: Any, job: Any, macs: float, _: Schedule, **options) -> Method:
    return made(budget=int(macs), input_shape=job.inputs, **options)


def _df(job: Any, macs: float, schedule: Schedule) -> Method:
    options = {"penalty": 10.0, "statistics": "batch", "step": 0.02}
    return _structured(DF, job, macs, schedule, periods_per_epoch=min(8, job.steps), **options)


#: The methods of each kind of budget by their names, the usual one first.
CHOICES: dict[str, dict[str, Any]] = {
    "bytes": {"admm": _file},
    "bits": {"admm": _admm},
    "share": {"magnitude": _gradual, "lc": _lc},
    "macs": {
        "df": _df,
        "group-magnitude": partial(_structured, FilterPruning, score="group-magnitude"),
        "l1": partial(_structured, FilterPruning, score="l1"),
    },
}
