"""What a GPU does right, and what it costs there: ``python -m lib gpu-check``, one table.

Nothing is installed or downloaded: images are drawn. On a CPU the same runs at small sizes, which
shows that the command works and nothing else. What is checked is in
:mod:`lib.workbook.benchmarks.gpu_parts`.
"""

import argparse
import math
import platform
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from lib import atomic
from lib.optimizers import METHODS
from lib.workbook import runs
from lib.workbook.benchmarks import every_method, gpu_parts, tables
from lib.workbook.benchmarks.gpu_parts import Found, Sizes

#: By kind of device.
SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(weights=500_000, rows=(16, 32), repeats=2, images=256, epochs=2, replayed=64),
}


class Item(NamedTuple):
    """Numbers that are found together, or not at all."""

    part: str
    what: str
    work: Callable[[], Iterator[Found]]


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the command; ``command(name, function)`` makes one and returns its parser."""
    parser = command("gpu-check", run)
    parser.add_argument(
        "--device",
        choices=("auto", "cuda", "cpu"),
        default="auto",
        help="default: the GPU that is visible, else the CPU at small sizes",
    )


def run(options: argparse.Namespace) -> int:
    """Checks and measures a GPU in four minutes, into one table that can be sent and committed."""
    device = runs.place(options.device)
    if device.type == "cpu":
        print("on the CPU, at small sizes: that the command works, and nothing about a GPU")
    made = table(device, SIZES[device.type], say=partial(print, flush=True))
    print(made[["part", "what", "value", "unit", "at most", "verdict"]].to_string(index=False))
    print(f"written: {save(made)}")
    if device.type == "cuda" and len(measured := solved_on(made)):
        file = tables.folder("mnist") / f"eigenproblems-{_slug(made['device'].iloc[0])}.csv"
        atomic.write(file, measured.to_csv(index=False).encode())
        print(f"written: {file}, to be committed as lib/projections/eigenproblems.csv")
    failed = made[made["verdict"] == "FAILED"]
    for row in failed.to_dict("records"):
        print("FAILED: {part}, {what}: {value:.4g} {unit} {note}".format(**row))
    return 1 if len(failed) else 0


def table(
    device: torch.device, sizes: Sizes, say: Callable[[str], None] = lambda line: None
) -> pd.DataFrame:
    """Every number that was found, a row each, with the machine, the versions and the commit."""
    began, rows = time.monotonic(), []
    for part, what, work in items(device, sizes):
        if time.monotonic() - began > sizes.seconds:
            found = [Found(math.nan, "left out", note=f"{sizes.seconds:g} s were over")]
        else:
            found = _found(work)
        said = {"part": part, "what": what}
        rows += [said | each._asdict() | {"verdict": each.verdict} for each in found]
        shown = "; ".join(f"{each.value:.4g} {each.unit} {each.verdict}".strip() for each in found)
        say(f"{time.monotonic() - began:5.0f} s  {part}, {what}: {shown}")
    return (
        pd.DataFrame(rows)
        .rename(columns={"most": "at most"})
        .assign(
            **tables.machine(str(device), threads=torch.get_num_threads()),
            python=platform.python_version(),
            cuda=torch.version.cuda if device.type == "cuda" else None,
            commit=runs.commit(),
        )
    )


def items(device: torch.device, sizes: Sizes) -> list[Item]:
    """All that is checked and measured, in order."""
    trained = [name for name in every_method.names() if name not in every_method.ONCE]
    timed = partial(gpu_parts.epochs, device=device, sizes=sizes, seconds={})
    projections = partial(gpu_parts.projections, device, sizes)
    return [
        Item("tests", "pytest", partial(gpu_parts.tests, device)),
        Item("projections", f"{sizes.weights:,} weights", projections),
        *(
            Item("eigenproblems", f"{n} rows", partial(gpu_parts.eigenproblem, n, device, sizes))
            for n in sizes.rows
        ),
        *(Item("replayed", n, partial(gpu_parts.replayed, n, device, sizes)) for n in trained),
        *(Item("epochs", n, partial(timed, n)) for n in trained if n in METHODS),
    ]


def solved_on(made: pd.DataFrame) -> pd.DataFrame:
    """What ``lib/projections/eigenproblems.csv`` would say by this table: the faster place by rows.

    Empty where nothing was measured; matrices larger than the largest go where that one does.
    """
    timed = made[(made["part"] == "eigenproblems") & made["unit"].str.startswith("ms, ")]
    best = timed.loc[timed.groupby("what", sort=False)["value"].idxmin()]
    best = best[best["unit"] != best["unit"].shift(-1)]  # the last rows that have the same place
    most = best["what"].str.removesuffix(" rows").tolist()
    return pd.DataFrame(
        {
            "rows_up_to": [*most[:-1], *["inf"][: len(most)]],
            "solved_on": best["unit"].str.removeprefix("ms, ").tolist(),
            "why": ("measured: " + best["device"] + ", " + best["note"]).tolist(),
        }
    )


def save(made: pd.DataFrame) -> Path:
    """Writes the table beside the other measurements, under its device's name."""
    file = tables.folder("mnist") / f"gpu-check-{_slug(made['device'].iloc[0])}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic.write(file, made.to_csv(index=False).encode())
    return file


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _found(work: Callable[[], Iterator[Found]]) -> list[Found]:
    try:
        return list(work())
    except Exception as error:  # whatever it is: the other rows are worth having
        said = (str(error).splitlines() or [""])[0]
        return [Found(math.nan, "error", 0, f"{type(error).__name__}: {said}")]
