"""How fast this machine trains, against the one that the catalogue's times were measured on.

Measured once, some seconds on one CPU thread, and kept beside the results, outside git. Every
process then reads the same numbers: the batch asks for the catalogue anew in each of its jobs, and
which runs share a job hangs on their times. Without a measurement the catalogue's times stand.
"""

import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from lib import atomic, paths

#: Kind of run → what stands for it: network, images of a step, steps, precision; and how many
#: seconds that takes where the catalogue's times hold, with AVX-512 and bfloat16.
PROBES = {
    "digits": ("lenet5", 64, 20, "float32", 0.35),
    "lenet": ("lenet5", 256, 8, "bfloat16", 0.32),
    "convolutional": ("resnet20", 128, 3, "bfloat16", 0.81),
}


def kind(network: str, dataset: str) -> str:
    """Which probe stands for a run."""
    if dataset == "digits":
        return "digits"
    return "lenet" if network.startswith("lenet") else "convolutional"


def factor(network: str, dataset: str) -> float:
    """By what a run's seconds on one CPU thread are to be multiplied; 1 where nothing is known."""
    found = known()
    return found["factors"][kind(network, dataset)] if found else 1.0


def known() -> dict | None:
    """The measurement: ``factors``, and the machine and moment it was made at; or ``None``."""
    return _read(_file())


@cache
def _read(file: Path) -> dict | None:
    try:
        found = json.loads(file.read_text())
        whole = set(found["factors"]) == set(PROBES) and {"processor", "instructions"} <= set(found)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if whole else None


def measure() -> dict:
    """Measures this machine and keeps what it finds."""
    from lib.training import arithmetic

    found = {
        "factors": {
            name: round(_seconds(*probe) / usual, 2) for name, (*probe, usual) in PROBES.items()
        },
        **arithmetic.machine("cpu"),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(file, (json.dumps(found, indent=1) + "\n").encode())
    _read.cache_clear()
    return found


def described() -> str:
    """Where the times of the catalogue come from, in one line."""
    found = known()
    if not found:
        return "CPU times are for a processor with AVX-512 and bfloat16, not measured here"
    factors = ", ".join(f"{name} {value:g}" for name, value in found["factors"].items())
    where = f"{found['processor']}, {found['instructions']}"
    return f"CPU times are scaled by what was measured on {where} ({factors})"


def _seconds(network, batch, steps, precision) -> float:
    """The better of two epochs of the training loop on random images, with their evaluation."""
    from lib import data, networks
    from lib.optimizers import Method
    from lib.training import Schedule, arithmetic, train

    few = data.noise(networks.INPUT_SHAPES[network], batch * steps)
    schedule = Schedule(epochs=1, lr=0.01, batch=batch, weight_decay=1e-4, precision=precision)
    model = networks.build(network)
    first = replace(few, train=few.train[:batch], test=few.train[:batch])
    times = []
    with arithmetic.threads(1):
        # libraries choose their kernels
        train(model, first, schedule, Method(), seed=0, quiet=True)
        for seed in range(2):
            began = time.perf_counter()
            train(model, few, schedule, Method(), seed=seed, quiet=True)
            times.append(time.perf_counter() - began)
    return min(times)


def _file() -> Path:
    return paths.checkpoints().parent / "machine.json"
