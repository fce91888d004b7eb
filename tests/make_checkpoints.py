"""Runs that an older code left half way, kept to be finished by the code at hand.

``python -m tests.make_checkpoints``, from the project's folder, trains each of :data:`CASES` on
``digits``, interrupts it, keeps its checkpoint in ``tests/golden/checkpoints``, and writes what it
ends in to ``tests/golden/checkpoints.csv``. It is for a case that is added; those that are there
are left alone, since their checkpoints are to be of the code that made them.
"""

import csv
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from lib import networks, training
from lib.training import Schedule
from lib.workbook import runs
from lib.workbook.experiments import Experiment, Stage
from lib.workbook.runs.checkpoints import Checkpoint
from tests.golden_check import GOLDEN, machine

KEPT, ENDED = GOLDEN / "checkpoints", GOLDEN / "checkpoints.csv"

#: The network's name in the catalogue, whose place the narrow one takes.
NETWORK, SHAPE = "resnet8", (1, 16, 16)

ONE = Schedule(epochs=1, lr=0.05, batch=64, weight_decay=5e-4)
TWO = replace(ONE, epochs=2, crop=1, clip=5.0)
AT_ONCE = replace(ONE, epochs=0)

MACS = {"budget": 30_000, "input_shape": SHAPE}
BYTES = {"file_bytes": 1_500, "network": NETWORK, "classes": 10, "channels": 1}
L0 = {"cost": "l0-constraint", "amount": 0.2, "mu": 0.01}
WHOLE = {"periods_per_epoch": 2, "growth": 1.5}

#: Case → its stages after a first epoch of plain training, and after how many saved epochs in all
#: it is interrupted: within the method's stage, or after it where it acts at once.
CASES: dict[str, tuple[int, list[tuple[str, Schedule, dict]]]] = {
    "sgd": (2, [("sgd", TWO, {})]),
    "admm": (2, [("admm", TWO, {"budget": 5_000, **WHOLE}), ("tune-codebooks", ONE, {})]),
    "admm-held": (
        3,
        [
            (
                "admm",
                replace(TWO, epochs=3),
                {"budget": 5_000, **WHOLE, "fading": True, "hold_after": 2, "average_after": 1},
            )
        ],
    ),
    "admm-prune": (2, [("admm", TWO, {"budget": 20_000, "mode": "prune"})]),
    "admm-quantize": (2, [("admm", TWO, {"budget": 5_000, "mode": "quantize"})]),
    "tune-codebooks": (2, [("tune-codebooks", TWO, {"bits": 3})]),
    "tune-codebooks-reassigned": (2, [("tune-codebooks", TWO, {"bits": 2, "reassign": True})]),
    "admm-file": (2, [("admm-file", TWO, BYTES | {"input_shape": SHAPE})]),
    "fit-file": (
        3,
        [
            ("tune-codebooks", ONE, {"bits": 4}),
            ("fit-file", AT_ONCE, BYTES),
            ("held-zeros", TWO, {}),
        ],
    ),
    "lc": (2, [("lc", TWO, L0)]),
    "lc-penalty-method": (2, [("lc", TWO, L0 | {"augmented": False, "scope": "layer"})]),
    "lc-mu-chosen": (2, [("lc", TWO, {"cost": "l1-penalty", "amount": 1e-3})]),
    "lc-codebook": (2, [("lc", TWO, {"cost": "codebook", "amount": 4, "mu": 0.01})]),
    "lc-both": (2, [("lc", TWO, {"cost": "codebook+l0", "amount": (4, 0.2), "mu": 0.01})]),
    "magnitude": (2, [("magnitude", TWO, {"keep": 0.3})]),
    "magnitude-gradual": (2, [("magnitude", TWO, {"keep": 0.3, "epochs": 2})]),
    "magnitude-random": (
        2,
        [("magnitude", TWO, {"keep": 0.3, "epochs": 2, "order": "random", "scope": "layer"})],
    ),
    "held-zeros": (3, [("magnitude", ONE, {"keep": 0.3}), ("held-zeros", TWO, {})]),
    "df": (2, [("df", TWO, MACS), ("sgd", ONE, {})]),
    "df-built": (3, [("df", ONE, MACS | {"mode": "filters"}), ("sgd", TWO, {})]),
    "df-filters": (
        2,
        [("df", TWO, MACS | {"mode": "filters", "statistics": "batch", "step": 0.1})],
    ),
    "df-ranks": (2, [("df", TWO, MACS | {"mode": "ranks", "straight_through": True})]),
    "filter-pruning": (2, [("filter-pruning", AT_ONCE, MACS), ("sgd", TWO, {})]),
    "low-rank": (2, [("low-rank", AT_ONCE, MACS), ("sgd", TWO, {})]),
    "lc-ranks": (2, [("lc-ranks", TWO, MACS)]),
    "black-box": (2, [("black-box", ONE, {"budget": 5_000, "trials": 3})]),
}


#: Of a result, what a case ends in.
NUMBERS = ("train_loss", "test_loss", "kept_fraction", "nominal_bits", "macs")


def experiment(case: str) -> Experiment:
    start = [] if case == "black-box" else [("sgd", ONE, {})]
    return Experiment(
        slug=f"{NETWORK}-digits-{case}",
        dataset="digits",
        network=NETWORK,
        held_out=case == "black-box",
        stages=tuple(
            Stage(method=method, schedule=schedule, options=tuple(sorted(options.items())))
            for method, schedule, options in [*start, *CASES[case][1]]
        ),
    )


def narrow(*, classes: int, channels: int) -> nn.Sequential:
    """Two convolutions with BatchNorm and a linear layer: small enough for a repository."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)),
        *(nn.ReLU(), nn.MaxPool2d(2)),  # (6, 8, 8)
        *(nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.MaxPool2d(4), nn.Flatten()),  # (32,)
        nn.Linear(32, classes),
    )


@contextmanager
def narrowed() -> Iterator[None]:
    """The narrow network in place of the catalogue's, and results in a folder of their own."""
    folder = tempfile.TemporaryDirectory()
    with (
        folder as root,
        mock.patch.dict(os.environ, WORKBOOK_RESULTS=root),
        mock.patch.dict(networks.BUILDERS, {NETWORK: narrow}),
    ):
        yield


def finish(case: str) -> runs.Run:
    """Trains what is left of a case."""
    return runs.get(experiment(case), 0, device="cpu", threads=1, quiet=True)


def kept(case: str) -> Path:
    return KEPT / f"{case}.pt"


def reached(run: runs.Run) -> dict[str, str]:
    """What a run ends in; ``seconds``, of its first epoch, tell that it was not trained anew."""
    numbers = {name: run.result[name] for name in NUMBERS}
    return {
        "id": run.id,
        "seconds": repr(float(run.history["seconds"][0])),
        "weights": run.result["files"]["weights.safetensors"],
        **{name: repr(number) for name, number in numbers.items()},
        "correct": str(int(run.correct.sum())),
    }


class Interrupted(Exception):
    """In the place of a kill."""


@contextmanager
def interrupted(after: int) -> Iterator[None]:
    """Every epoch is saved, and no epoch follows the last of so many."""
    saved, save = [], Checkpoint.save

    def last(checkpoint: Checkpoint, state: dict) -> None:
        save(checkpoint, state)
        saved.append(state)
        if len(saved) == after:
            raise Interrupted

    with (
        mock.patch.object(Checkpoint, "save", last),
        mock.patch.object(training.loop, "CHECKPOINT_SECONDS", 0),
    ):
        yield


def main() -> None:
    KEPT.mkdir(exist_ok=True)
    text = ENDED.read_text() if ENDED.exists() else ""
    rows = {row["case"]: row for row in csv.DictReader(text.splitlines())}
    where = dict(zip(("processor", "instructions", "torch"), machine(), strict=True))
    for case in CASES.keys() - rows.keys():
        with narrowed():
            try:
                with interrupted(CASES[case][0]):
                    finish(case)
            except Interrupted:
                kept(case).write_bytes(Checkpoint(experiment(case).id(0)).file.read_bytes())
            rows[case] = {"case": case} | where | reached(finish(case))
    with ENDED.open("w", newline="") as file:
        table = csv.DictWriter(file, rows["sgd"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows[case] for case in CASES)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
