"""A run is a row: what every table reads of an experiment's runs over seeds.

Accuracies, errors and shares are in percent, differences in points, paired seed by seed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib import atomic, paths
from lib.workbook import runs
from lib.workbook.experiments import Experiment
from lib.workbook.report import statistics
from lib.workbook.runs import Run

#: Those of an experiment, a run a seed.
Runs = Sequence[Run]


def reported(name: str) -> pd.DataFrame:
    """A table of a paper as the paper prints it, such as ``admm_table3``."""
    return pd.read_csv(paths.REPORTED / f"{name}.csv")


def save(table: pd.DataFrame, name: str, folder: Path) -> None:
    """Writes ``name``.csv into ``folder``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / f"{name}.csv", table.to_csv(index=False).encode())


def seeds_of(experiment: Experiment, *, most: int = 100) -> list[Run]:
    """The finished runs of an experiment, seed by seed; nothing is trained."""
    found = (runs.folder_of(experiment, seed) for seed in range(most))
    return [runs.read(folder) for folder in found if runs.present(folder)]


def finished(wanted, *, most: int = 100):
    """The finished runs of an experiment, by seed, or of many, in a mapping or a sequence of them.

    What has no run is left out of these. Nothing is trained.
    """
    if isinstance(wanted, Experiment):
        return seeds_of(wanted, most=most)
    if isinstance(wanted, Mapping):
        found = {key: finished(one, most=most) for key, one in wanted.items()}
        return {key: runs_ for key, runs_ in found.items() if runs_}
    return [runs_ for one in wanted if (runs_ := finished(one, most=most))]


def histories(wanted: Mapping[object, Experiment]) -> dict[object, pd.DataFrame]:
    """Key → the history of the run of seed 0, of those that are there."""
    return {key: run.history for key, (run,) in finished(wanted, most=1).items()}


def last_epochs(histories: Mapping[object, pd.DataFrame], key: str, *traced: str) -> pd.DataFrame:
    """How traced runs ended, a row a history: losses (nats), accuracies (%), the copies' MSE.

    ``key`` is the column of the histories' keys. Of the MSE and what else is ``traced`` the first
    epoch's is there too, ``NAME_first``; ``added`` is what compressing adds to the loss.
    """
    rows = []
    for label, history in histories.items():
        last, row = history.iloc[-1], {key: label}
        for name in (*traced, "mse"):
            row |= {f"{name}_first": history[name].iloc[0], name: last[name]}
        ended = {
            **last[["loss", "compressed_loss"]],
            "added": last["compressed_loss"] - last["loss"],
            "accuracy": 100 * last["test_accuracy"],
            "compressed_accuracy": 100 * last["compressed_test_accuracy"],
        }
        rows.append(row | ended)
    return pd.DataFrame(rows)


def length(experiment: Mapping) -> int:
    """The epochs of an experiment as a run states it, without those of what it starts from."""
    return sum(stage["schedule"]["epochs"] for stage in experiment["stages"])


# --------------------------------------------------------------------------- what a run is, summed


#: Column → a number of each run, of what ``result.json`` says; ``NAME_sd`` is its spread.
NUMBERS = {
    "share": "accuracy",
    "accuracy": "100 * accuracy",
    "dense_accuracy": "100 * dense_accuracy",
    "control_accuracy": "100 * control_accuracy",
    "error": "100 * (1 - accuracy)",
    "drop": "100 * (dense_accuracy - accuracy)",
    "control_drop": "100 * (control_accuracy - accuracy)",
    "gain": "100 * accuracy - 100 * dense_accuracy",
    "control_gain": "100 * accuracy - 100 * control_accuracy",
    "reduction": "100 * (1 - macs / dense_macs)",
    "rate": "nominal_rate",
    "loss": "test_loss",
}

#: Column → what all runs of an experiment come to.
OF_ALL: dict[str, Callable[[Runs], object]] = {
    "network": lambda found: found[0].result["network"],
    "epochs": lambda found: found[0].result["epochs"],
    "n": len,
    "verdict": lambda found: _verdict(found),
    "dense_error": lambda found: 100 * (1 - mean(found, "dense_accuracy")),
    "control_error": lambda found: 100 * (1 - mean(found, "control_accuracy")),
    "kept_percent": lambda found: 100 * mean(found, "kept_fraction"),
    # of one thread on a CPU, the parent's left out; machines differ, and what ran beside
    "hours": lambda found: mean(found, "train_seconds") / 3600,
    "computed_in": lambda found: " and ".join(
        dict.fromkeys(kind for run in found for kind in run.computed_in.split(" and "))
    ),
}


def mean(found: Runs, key: str) -> float:
    """A result as it is recorded, over the runs; NaN where one of them does not know it."""
    return _results(found)[key].mean(skipna=False)


def summary(found: Runs, columns: str) -> dict[str, object]:
    """An experiment's runs over seeds as a row: means over them, and what ``OF_ALL`` says.

    ``columns`` are names with spaces between. ``NAME_sd`` is the standard deviation over seeds, NaN
    of one. A column that ``NUMBERS`` does not have is the result of that name. A mean is NaN where
    one of the runs does not know its number.
    """
    results = _results(found)

    def number(name: str) -> float:
        column = _column(results, name.removesuffix("_sd"))
        return column.std() if name.endswith("_sd") else column.mean(skipna=False)

    return {
        name: OF_ALL[name](found) if name in OF_ALL else number(name) for name in columns.split()
    }


def by_seed(found: Runs, name: str = "accuracy") -> pd.Series:
    """A column of ``NUMBERS``, or a result, by seed; NaN where it is not known.

    One such column minus another pairs them seed by seed.
    """
    return _column(_results(found), name) if found else pd.Series(dtype=float)


def _results(found: Runs) -> pd.DataFrame:
    """The numbers in ``result.json``, a row a seed."""
    kinds = (int, float, type(None))
    rows = [{k: v for k, v in run.result.items() if isinstance(v, kinds)} for run in found]
    return pd.DataFrame(rows, [run.result["seed"] for run in found]).astype(float)


def _column(results: pd.DataFrame, name: str) -> pd.Series:
    return results.eval(NUMBERS.get(name, name), engine="python")


def table(found: Mapping[object, Runs], keys: Sequence[str], columns: str) -> pd.DataFrame:
    """A row for each key of ``found``: its parts in the columns ``keys``, then :func:`summary`."""
    rows = []
    for key, of_seeds in found.items():
        parts = key if isinstance(key, tuple) else (key,)
        known = summary(of_seeds, f"{columns} computed_in")
        rows.append(dict(zip(keys, parts, strict=True)) | known)
    return frame(rows)


def frame(rows: Sequence[Mapping]) -> pd.DataFrame:
    """Rows of ours as a table; the column ``computed_in`` stays only where they differ in it."""
    made = pd.DataFrame(rows)
    if "computed_in" in made and made["computed_in"].nunique() == 1:
        return made.drop(columns="computed_in")
    return made


def taken(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    """These columns, each once, and ``computed_in`` where rows differ in it; NaN what is not there.

    The same columns stand where no row is of ours.
    """
    differ = table.columns.intersection(["computed_in"])
    return table.reindex(columns=list(dict.fromkeys([*columns, *differ])))


def ours(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are not the paper's."""
    return table[table["source"] == "ours"]


# ------------------------------------------------------------------------------------- differences


def interval(compressed: Runs, *, against: str = "dense") -> statistics.Interval:
    """The accuracy lost, in points, with a 95 % interval, which says what it is over.

    ``against`` is ``dense`` (the network that was compressed) or ``control`` (the same, fine-tuned
    for as long). Of several runs the interval is over seeds, of the differences paired seed by seed
    (Student's t). Of one run it is over test images: the same images for both networks, so that
    what both get right or wrong cancels. That one says nothing about other seeds.
    """
    if len(compressed) == 1:
        return statistics.over_images(_images_lost(compressed[0], against))
    name = {"dense": "drop", "control": "control_drop"}[against]
    return statistics.over_seeds(by_seed(compressed, name))


def _verdict(found: Runs) -> str | None:
    known = found[0].result["dense_accuracy"] is not None  # a network from new weights has none
    return interval(found).verdict if known else None


def _images_lost(run: Run, against: str) -> np.ndarray:
    """+1 where the compressed network fails on an image that the other knew, −1 the other way."""
    if against == "control":
        other = _neighbour(run, "control")
    else:
        other = run
        while other.result["parent"]:
            other = _neighbour(other, "parent")
    return other.correct.astype(np.int8) - run.correct.astype(np.int8)


def _neighbour(run: Run, kind: str) -> Run:
    return runs.read(run.folder.parent / run.result[kind])


def gain(mine: Runs, other: Runs) -> statistics.Interval:
    """How much more accurate, in points: over the seeds that both have, of one over its images."""
    pairs = [(a, b) for a in mine for b in other if a.result["seed"] == b.result["seed"]]
    if len(pairs) == 1:
        ((one, two),) = pairs
        return statistics.over_images(one.correct.astype(np.int8) - two.correct.astype(np.int8))
    return statistics.over_seeds((by_seed(mine) - by_seed(other)).dropna())
