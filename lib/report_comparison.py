"""LC's figure of results, and all methods head to head: run folders → tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib import report
from lib.experiments import Experiment, comparison
from lib.runs import Run

#: How the tables and figures name the methods.
NAMES = {
    "admm": "ADMM",
    "lc": "LC-ℓ0",
    "deep-compression": "Deep Compression",
    "gradual": "gradual pruning",
    "ye": "ADMM, rates by hand (Ye et al.)",
    "fixed-bitwidth": "Fixed-Bitwidth",
    "black-box": "black-box search (TPE)",
}


def results_curve(curves: Mapping[str, Sequence[Sequence[Run]]]) -> pd.DataFrame:
    """LC's figure in numbers: a row for each point of each curve, means and sd over seeds.

    ``curves`` maps a curve's name to its points, each the runs over seeds. ``kept_percent`` is what
    is left of the weights, ``error`` (%) and ``loss`` (nats) of the test split, ``train_loss`` of
    the training split.
    """
    rows = []
    for name, points in curves.items():
        for found in filter(None, points):
            results = pd.DataFrame([run.result for run in found])
            error = 100 * (1 - results["accuracy"])
            rows.append(
                {
                    "curve": name,
                    "amount": _amount(found[0]),
                    "kept_percent": 100 * results["kept_fraction"].mean(),
                    "error": error.mean(),
                    "error_sd": error.std(),
                    "control_error": 100 * (1 - results["control_accuracy"].mean()),
                    "loss": results["test_loss"].mean(),
                    "train_loss": results["train_loss"].mean(),
                    "n": len(found),
                }
            )
    return pd.DataFrame(rows)


def _amount(run: Run) -> float:
    options = dict(run.experiment["stages"][0]["options"])
    return options.get("amount", options.get("keep"))


def layer_shares(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The share of its weights (%) that each layer keeps, a column a run."""
    shares = {
        name: (100 * run.layers["kept"] / run.layers["weights"]).set_axis(run.layers["name"])
        for name, run in runs.items()
    }
    return pd.DataFrame(shares)


def head_to_head(dataset: str, network: str) -> pd.DataFrame:
    """All methods to the same budgets: a row for each method and rate, of the runs that are there.

    ``asked`` is the nominal rate of the budget, ``rate`` and ``entropy_rate`` are what the weights
    have. Accuracies are in percent, drops in points, means and sd over seeds. ``epochs`` are those
    of one compressed network, ``search_epochs`` those of the search that its rates come from, and
    ``tuning_epochs`` those of the trials of the method's knobs, which serve all its rows.
    """
    rows = []
    for (method, rate), experiment in comparison.rows(dataset, network).items():
        found = report.finished(experiment)
        if found:
            rows.append(_row(method, rate, experiment, found))
    return pd.DataFrame(rows)


def _row(method: str, rate: float, experiment: Experiment, found: Sequence[Run]) -> dict:
    results = pd.DataFrame([run.result for run in found])
    accuracy, lost = 100 * results["accuracy"], report.drop(found)
    trials = comparison.trials().get(method, [])
    return {
        "method": NAMES[method],
        "asked": rate,
        "rate": results["nominal_rate"].mean(),
        "entropy_rate": results["entropy_rate"].mean(),
        "estimated_bytes": results["estimated_bytes"].mean(),
        "accuracy": accuracy.mean(),
        "accuracy_sd": accuracy.std(),
        "drop": lost["drop"],
        "drop_sd": lost["drop_sd"],
        "control_drop": report.drop(found, against="control")["drop"],
        "epochs": experiment.epochs,
        "search_epochs": experiment.like.epochs if experiment.like else 0,
        "tuning_epochs": sum(trial.epochs for trial in trials),
        "n": len(found),
    }


def verdict(table: pd.DataFrame) -> str:
    """Which method wins at which rate, by how much, and where ADMM stands: one line a rate.

    A difference is given in points and in standard deviations, √((s₁² + s₂²)/2) over seeds.
    """
    lines = []
    for rate, rows in table.groupby("asked"):
        ranked = rows.sort_values("accuracy", ascending=False).set_index("method")
        best, second = ranked.index[:2]
        lines.append(
            f"{rate:,.0f}×: {best} wins with {ranked.accuracy[best]:.2f} %, "
            f"{_apart(ranked, best, second)} before {second}"
        )
        if best != NAMES["admm"]:
            place = ranked.index.get_loc(NAMES["admm"]) + 1
            lines[-1] += (
                f"; ADMM is number {place} of {len(ranked)}, "
                f"{_apart(ranked, best, NAMES['admm'])} behind"
            )
    return "\n".join(f"{line}." for line in lines)


def _apart(table: pd.DataFrame, better: str, worse: str) -> str:
    points = table.accuracy[better] - table.accuracy[worse]
    spread = np.sqrt((table.accuracy_sd[better] ** 2 + table.accuracy_sd[worse] ** 2) / 2)
    if not spread > 0:  # one seed, or seeds that agree
        return f"{points:.2f} points"
    return f"{points:.2f} points ({points / spread:.1f} sd)"


def tried(trials: Mapping[str, Sequence[Run]]) -> pd.DataFrame:
    """Accuracies (%) on held-out images: a row a method, a column a trial, the best first found."""
    rows = {}
    for method, found in trials.items():
        accuracies = [100 * run.result["held_out_accuracy"] for run in found]
        rows[NAMES[method]] = accuracies
    return pd.DataFrame.from_dict(rows, orient="index", columns=range(1, 7))


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`head_to_head`'s table as it is read: rounded, with units."""
    plus_minus = [
        f"{mean:.2f}" if np.isnan(sd) else f"{mean:.2f} ± {sd:.2f}"
        for mean, sd in zip(table["accuracy"], table["accuracy_sd"], strict=True)
    ]
    drops = [
        f"{mean:.2f}" if np.isnan(sd) else f"{mean:.2f} ± {sd:.2f}"
        for mean, sd in zip(table["drop"], table["drop_sd"], strict=True)
    ]
    return pd.DataFrame(
        {
            "asked": [f"{rate:,.0f}×" for rate in table["asked"]],
            "method": table["method"],
            "nominal rate": [f"{rate:,.0f}×" for rate in table["rate"]],
            "entropy rate": [f"{rate:,.0f}×" for rate in table["entropy_rate"]],
            "estimated bytes": [f"{size:,.0f}" for size in table["estimated_bytes"]],
            "accuracy, %": plus_minus,
            "drop, points": drops,
            "drop against control": [f"{drop:.2f}" for drop in table["control_drop"]],
            "epochs": table["epochs"],
            "of its search": table["search_epochs"],
            "of tuning": table["tuning_epochs"],
            "n": table["n"],
        }
    ).sort_values("asked", key=lambda c: c.str.rstrip("×").str.replace(",", "").astype(float))
