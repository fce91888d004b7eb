"""ResNet-20's trials on held-out images: ADMM's ends, DF's β and C, each against today's choice.

Networks are compared by the losses of the same held-out images, paired image by image. A standard
error is over those images, of one pair of networks: it says nothing about other seeds.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib import data
from lib.workbook import experiments
from lib.workbook.report import tables
from lib.workbook.runs import Run

#: The data set of the trials.
DATASET = "cifar10"

#: Standard errors that another choice has to be ahead by, on each seed.
ENOUGH = 2


def against(found: Mapping[str, Run], today: str) -> pd.DataFrame:
    """A row a trial: accuracy (%) and loss (nats) on held-out images, and what it is ahead.

    ``ahead`` is the mean over the images of today's loss minus the trial's, in thousandths of a
    nat: above zero is better. ``ahead_se`` is its standard error, sd/√n over the images. Both are
    NaN without today's trial.
    """
    rows = []
    for name, run in found.items():
        gained = _gained(found[today], run) if today in found else np.full(2, math.nan)
        rows.append(
            {
                "trial": name,
                "accuracy": 100 * run.result["held_out_accuracy"],
                "loss": run.result["test_loss"],
                "ahead": 1000 * gained.mean(),
                "ahead_se": 1000 * gained.std(ddof=1) / math.sqrt(len(gained)),
                "images": run.result["images"],
                "hours": tables.hours([run]),
                "computed_in": run.computed_in,
            }
        )
    return tables.frame(rows)


def _gained(today: Run, other: Run) -> np.ndarray:
    return today.losses.astype(float) - other.losses.astype(float)


def ends(seed: int) -> pd.DataFrame:
    """The ends of ADMM that are there, on one seed, as :func:`against`."""
    there = {
        name: [run for run in tables.finished(experiment) if run.result["seed"] == seed]
        for name, experiment in experiments.trials.endings(DATASET).items()
    }
    return against({name: run for name, (run,) in _present(there).items()}, "today")


def grid() -> pd.DataFrame:
    """DF's β and C that are there, against the paper's β and our C, as :func:`against`."""
    wanted = experiments.df.trials(DATASET, **experiments.df.cpu())
    there = {_named(*key): tables.finished(e, most=1) for key, e in wanted.items()}
    first, *_ = wanted
    return against({name: run for name, (run,) in _present(there).items()}, _named(*first))


def _named(beta: float, steepness: float) -> str:
    return f"β = {beta:g}, C = {steepness:g}"


def _present(found: Mapping[str, list[Run]]) -> dict[str, list[Run]]:
    return {name: runs for name, runs in found.items() if runs}


def best(table: pd.DataFrame) -> str | None:
    """The trial of the lowest loss where it is ahead by two standard errors, else ``None``."""
    if table.empty or table["ahead"].isna().all():
        return None
    row = table.loc[table["ahead"].idxmax()]
    return row["trial"] if row["ahead"] > ENOUGH * row["ahead_se"] else None


def decision() -> str:
    """What the trials of ADMM's end say by the rule, one line.

    An end is taken where all six are there on seed 0 and the best of them is ahead of today's by
    two standard errors there and on seed 1.
    """
    first, second = ends(0), ends(1)
    missing = [
        name for name in experiments.trials.ENDS if first.empty or name not in set(first["trial"])
    ]
    if missing:
        return f"Undecided: {', '.join(missing)} not there yet."
    name = best(first)
    if name is None:
        return "Today's end stays: none is ahead of it by two standard errors on seed 0."
    again = second[second["trial"] == name] if not second.empty else second
    if again.empty:
        return f"Undecided: {name} is ahead on seed 0, and has not been tried on seed 1 yet."
    if again["ahead"].iloc[0] > ENOUGH * again["ahead_se"].iloc[0]:
        return f"{name} is taken: it is ahead by two standard errors on both seeds."
    return f"Today's end stays: {name} is ahead by two standard errors on seed 0, not on seed 1."


def committed_ends() -> str:
    """The trials of ADMM's end from the committed runs, as text; or one line."""
    compress, tune = experiments.trials.EPOCHS.values()
    dense = experiments.admm_table_4.CPU["trial"]
    heading = (
        f"resnet20 on {data.describe(DATASET)}, 35.4×, {dense} + {compress} + {tune} "
        "epochs, held-out images; ahead: thousandths of a nat"
    )
    parts = [f"seed {seed}\n{_text(table)}" for seed in (0, 1) if not (table := ends(seed)).empty]
    if not parts:
        return tables.none("ADMM's ends", DATASET)
    return "\n\n".join([heading, *parts, decision()])


def committed_grid() -> str:
    """DF's β and C from the committed runs, as text; or one line."""
    table = grid()
    if table.empty:
        return tables.none("DF's β and C", DATASET)
    epochs = f"{experiments.admm_table_4.CPU['trial']} + {experiments.df.CPU['choose']}"
    heading = (
        f"resnet20 on {data.describe(DATASET)}, 60 % of the MACs less, "
        f"{epochs} epochs, held-out images; ahead: thousandths of a nat"
    )
    name = best(table)
    said = f"{name} is ahead of today's" if name else "No other is ahead of today's"
    return f"{heading}\n{_text(table)}\n\n{said} by two standard errors."


def _text(table: pd.DataFrame) -> str:
    forms = {"accuracy": "{:.2f}", "loss": "{:.4f}", "ahead": "{:+.1f}", "ahead_se": "{:.1f}"}
    forms["hours"] = "{:.2f}"
    shown = {name: tables.shown(table[name], form) for name, form in forms.items()}
    return table.assign(**shown).to_string(index=False)
