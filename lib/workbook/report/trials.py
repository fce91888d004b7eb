"""Trials on held-out images: the knobs of each method, ADMM's ends, DF's β and C.

ResNet-20's trials are compared with today's choice by the losses of the same held-out images,
paired image by image. A standard error is over those images, of one pair of networks: it says
nothing about other seeds.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib import data
from lib.data.catalogue import HELD_OUT
from lib.workbook import experiments
from lib.workbook.experiments import Experiment
from lib.workbook.report import statistics
from lib.workbook.report.columns import columns, headed, numbers, text
from lib.workbook.report.comparison import NAMES
from lib.workbook.report.rows import finished, frame, summary
from lib.workbook.runs import Run

#: The data set of ResNet-20's trials.
DATASET = "cifar10"

#: Standard errors that another choice has to be ahead by, on each seed.
ENOUGH = 2

#: Settings that every method's knobs are tried at before any beyond their edges.
FIRST_TRIALS = 6

# ------------------------------------------------------------------------------------------- knobs


def edges(
    trials: Mapping[str, Sequence[Experiment]], settings: Mapping[str, Sequence[dict]]
) -> str:
    """How much trials of knobs tell apart: a line a method, of those whose trials are all there.

    Which chosen knobs are the least or the largest that was tried; and how many other settings are
    within one standard error, of one accuracy on the held-out images, of the chosen one.
    """
    lines = []
    for method, wanted in trials.items():
        made = tried({method: wanted}, settings)
        if len(made) < len(wanted):
            continue
        right, best = made["accuracy"] / 100, made["chosen"].idxmax()
        ends = []
        for knob, value in settings[method][best].items():
            values = [setting[knob] for setting in settings[method]]
            if not isinstance(value, bool | str) and value in (min(values), max(values)):
                ends.append(f"{knob} {value}")
        error = math.sqrt(right[best] * (1 - right[best]) / HELD_OUT["mnist"])
        near = int((right[best] - right <= error).sum()) - 1
        lines.append(
            f"{NAMES[method]}: chosen at an edge of what was tried: {', '.join(ends) or 'none'}; "
            f"{near} of the {len(made) - 1} others within one standard error, "
            f"{100 * error:.2f} points"
        )
    return "\n".join(lines)


def tried(
    trials: Mapping[str, Sequence[Experiment]], settings: Mapping[str, Sequence[dict]]
) -> pd.DataFrame:
    """The trials of knobs that are there: a row each, with its accuracy (%) on held-out images.

    ``ahead`` is its difference in points to the best of the method's first six, ``ahead_se`` the
    standard error of that, paired image by image. ``chosen`` marks the first of the best of the
    six, or the best of those beyond their edges where it is ahead by more than its standard error.
    """
    rows: list[dict] = []
    for method, wanted in trials.items():
        found = {i: run for i, (run,) in finished(dict(enumerate(wanted)), most=1).items()}
        first = [i for i in found if i < FIRST_TRIALS]
        if not first:
            continue
        best, made = max(first, key=lambda i, of=found: _held_out(of[i])), []
        for i, run in found.items():
            gained = run.correct.astype(np.int8) - found[best].correct.astype(np.int8)
            made.append(
                {
                    "method": NAMES[method],
                    "knobs": ", ".join(f"{k} {v}" for k, v in settings[method][i].items()),
                    "accuracy": _held_out(run),
                    "ahead": 100 * float(gained.mean()),
                    "ahead_se": statistics.standard_error(gained),
                    "chosen": i == best,
                    "computed_in": run.computed_in,
                }
            )
        wider = max(made[len(first) :], key=lambda row: row["ahead"], default=None)
        if wider and wider["ahead"] > wider["ahead_se"]:
            made = [row | {"chosen": row is wider} for row in made]
        rows += made
    return frame(rows)


def _held_out(run: Run) -> float:
    return 100 * run.result["held_out_accuracy"]


def knobs_text() -> str:
    """The trials of knobs on images held out of MNIST's training split; empty without a run."""
    made = (
        (experiments.comparison.trials(), experiments.comparison.tried()),
        (experiments.lc.trials(), experiments.lc.TRIALS),
    )
    heading = "images held out of MNIST's training split, accuracy in %"
    parts = [headed(heading, numbers(tried(*each))) for each in made]
    return "\n\n".join(filter(None, [*parts, *(edges(*each) for each in made)]))


# --------------------------------------------------------------------------- ResNet-20's, by losses


def against(found: Mapping[str, Run], today: str) -> pd.DataFrame:
    """A row a trial: accuracy (%) and loss (nats) on held-out images, and what it is ahead.

    ``ahead`` is the mean over the images of today's loss minus the trial's, in thousandths of a
    nat: above zero is better. ``ahead_se`` is its standard error, sd/√n over the images. Both are
    NaN without today's trial.
    """
    rows = []
    for name, run in found.items():
        before = found[today].losses.astype(float) if today in found else math.nan
        gained = before - run.losses.astype(float)
        known = {
            "trial": name,
            "accuracy": _held_out(run),
            "loss": run.result["test_loss"],
            "ahead": 1000 * gained.mean(),
            "ahead_se": 1000 * gained.std(ddof=1) / math.sqrt(len(gained)),
            "images": run.result["images"],
        }
        rows.append(known | summary([run], "hours computed_in"))
    return frame(rows)


def ends(seed: int) -> pd.DataFrame:
    """The ends of ADMM that are there, on one seed, as :func:`against`."""
    found = finished(experiments.trials.endings(DATASET)).items()
    there = {name: run for name, runs in found for run in runs if run.result["seed"] == seed}
    return against(there, "today")


def grid() -> pd.DataFrame:
    """DF's β and C that are there, against the paper's β and our C, as :func:`against`."""
    wanted = experiments.df.trials(DATASET, **experiments.df.cpu())
    named = {key: "β = {:g}, C = {:g}".format(*key) for key in wanted}
    found = {named[key]: run for key, (run,) in finished(wanted, most=1).items()}
    return against(found, next(iter(named.values())))


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
    missing = [name for name in experiments.trials.ENDS if name not in set(first.get("trial", ()))]
    if missing:
        return f"Undecided: {', '.join(missing)} not there yet."
    name = best(first)
    if name is None:
        return "Today's end stays: none is ahead of it by two standard errors on seed 0."
    if name not in set(second.get("trial", ())):
        return f"Undecided: {name} is ahead on seed 0, and has not been tried on seed 1 yet."
    if best(second[second["trial"] == name]):
        return f"{name} is taken: it is ahead by two standard errors on both seeds."
    return f"Today's end stays: {name} is ahead by two standard errors on seed 0, not on seed 1."


#: :func:`against`'s table as it is read.
AGAINST = columns(
    "trial accuracy loss ahead ahead_se images hours",
    accuracy=("accuracy", "{:.2f}"),
    loss=("loss", "{:.4f}"),
    ahead=("ahead", "{:+.1f}"),
    ahead_se=("ahead_se", "{:.1f}"),
    images=("images", None),
)


def _heading(what: str, *epochs: int) -> str:
    return (
        f"resnet20 on {data.describe(DATASET)}, {what}, {' + '.join(map(str, epochs))} epochs, "
        "held-out images; ahead: thousandths of a nat"
    )


def ends_text() -> str:
    """The trials of ADMM's end, and what they decide; empty where none is there."""
    parts = [headed(f"seed {seed}", text(ends(seed), AGAINST)) for seed in (0, 1)]
    dense = experiments.admm_table_4.CPU["trial"]
    heading = _heading("35.4×", dense, *experiments.trials.EPOCHS.values())
    return "\n\n".join(filter(None, [heading, *parts, decision()])) if any(parts) else ""


def grid_text() -> str:
    """DF's β and C, and whether another pair is ahead; empty where none is there."""
    table = grid()
    if table.empty:
        return ""
    epochs = experiments.admm_table_4.CPU["trial"], experiments.df.CPU["choose"]
    name = best(table)
    said = f"{name} is ahead of today's" if name else "No other is ahead of today's"
    heading = _heading("60 % of the MACs less", *epochs)
    return f"{heading}\n{text(table, AGAINST)}\n\n{said} by two standard errors."
