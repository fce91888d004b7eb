"""LC: how its two copies of the weights meet, and its figure of results."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd
import torch

from lib.layers import compressible
from lib.projections.sparsity import l0_constraint
from lib.workbook import experiments
from lib.workbook.report import comparison, rows, statistics
from lib.workbook.report.columns import columns
from lib.workbook.report.rows import Runs, by_seed, finished, histories, last_epochs
from lib.workbook.runs import Run

#: A curve's name → its points, each the runs over seeds.
Curves = Mapping[str, Sequence[Runs]]


def convergence(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How w and θ met, a row a run: μ, their distance, losses (nats) and accuracies (%).

    ``histories`` maps a label to the history of a traced run of LC.
    """
    return last_epochs(histories, "run", "mu")


def as_pruned_at_first(run: Run, parent: Run) -> dict[str, float]:
    """How far LC has come from its first C step, which is magnitude pruning of ``parent``.

    ``same`` is the share of the final nonzero weights that the first C step kept too, ``moved`` the
    distance of the two networks' weights, in parts of the first's norm. For an ℓ0 constraint over
    all layers.
    """
    before, after = (
        torch.cat([w.detach().flatten() for w in compressible(r.model()).values()])
        for r in (parent, run)
    )
    kept = int(after.count_nonzero())
    (first,) = l0_constraint([before], keep=kept)
    same = int(((first != 0) & (after != 0)).sum())
    return {
        "same": same / kept if kept else float("nan"),
        "moved": float((after - first).norm() / first.norm()),
    }


#: :func:`convergence`'s table as it is read.
CONVERGENCE = columns(
    "run mu_first mu mse_first mse loss compressed_loss accuracy compressed_accuracy",
    mu_first=("first μ", "{:.3g}"),
    mu=("last μ", "{:.3g}"),
    mse_first=("first mean (w − θ)²", "{:.1e}"),
    mse=("last", "{:.1e}"),
    loss=("loss of w", "{:.4f}"),
    compressed_loss=("loss of θ", "{:.4f}"),
    accuracy=("w, %", "{:.2f}"),
    compressed_accuracy=("θ, %", "{:.2f}"),
)


def finished_histories(dataset: str) -> dict[str, pd.DataFrame]:
    """Label → history of those runs that are there, seed 0; nothing is trained."""
    return histories(experiments.lc.meetings(dataset))


# ------------------------------------------------------------------------------- figure of results


def results_curve(curves: Curves) -> pd.DataFrame:
    """LC's figure in numbers: a row for each point of each curve, means and sd over seeds.

    ``kept_percent`` is what is left of the weights, ``error`` (%) and ``loss`` (nats) of the test
    split, ``train_loss`` of the training split.
    """
    points = {(name, _amount(found[0])): found for name, found in _points(curves)}
    columns = "kept_percent error error_sd control_error loss train_loss hours n"
    return rows.table(points, ["curve", "amount"], columns)


def _points(curves: Curves) -> Iterator[tuple[str, Runs]]:
    return ((name, found) for name, points in curves.items() for found in points if found)


def _amount(run: Run) -> float:
    options = dict(run.experiment["stages"][0]["options"])
    return options.get("amount", options.get("keep"))


#: The curves of LC's figure whose number of weights is set, to the same shares.
COUNTED = ("l0-constraint", "magnitude", "gradual")


def least(curves: Curves) -> str:
    """Which of ``COUNTED`` loses least at which share: lines of ``comparison.verdict``."""
    shares: dict[float, dict[str, pd.Series]] = {}
    for name, runs in _points({name: curves.get(name, ()) for name in COUNTED}):
        shares.setdefault(_amount(runs[0]), {})[name] = by_seed(runs)
    return comparison.verdict(shares, named="{:.1%} kept".format)


def over_control(table: pd.DataFrame, *, kept: float) -> pd.DataFrame:
    """How far errors are above the fine-tuned dense control, in points: a row a curve.

    Of :func:`results_curve`'s points that keep ``kept`` percent of the weights or more: how many
    there are, the least and the most.
    """
    enough = table[table["kept_percent"].round(1) >= kept]
    over = (enough["error"] - enough["control_error"]).groupby(enough["curve"], sort=False)
    return over.agg(points="count", least="min", most="max").reset_index()


def layer_shares(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The share of its weights (%) that each layer keeps, a column a run."""
    shares = {
        name: (100 * run.layers["kept"] / run.layers["weights"]).set_axis(run.layers["name"])
        for name, run in runs.items()
    }
    return pd.DataFrame(shares)


def claims() -> str:
    """How LC stands against the fine-tuned dense control, and against pruning, on MNIST.

    Errors in percent, paired differences over seeds in points; empty where no run is there.
    """
    drawn, again = experiments.lc.curves("mnist"), experiments.lc.longer()
    compared = {
        f"{share:.1%} kept": at
        for share, *at in zip(experiments.lc.KEPT, *map(drawn.get, COUNTED), strict=True)
    }
    name = "{kept:.1%} kept, {epochs} epochs".format(**experiments.lc.LONGER)
    compared[name] = [again["l0-constraint"], again["magnitude"]]
    found = {name: [finished(each) for each in row] for name, row in compared.items()}
    return "\n".join(_claim(name, *row) for name, row in found.items() if row[0])


def _claim(name: str, lc: Runs, *others: Runs) -> str:
    """One line of :func:`claims`."""
    against = {"the dense network trained on": by_seed(lc, "control_accuracy")}
    for pruning, found in zip(("one-shot", "gradual"), others, strict=False):
        against[f"{pruning} pruning"] = by_seed(found)
    parts = [
        f"{statistics.over_seeds(points).said} against {what} (n = {len(points)})"
        for what, other in against.items()
        if len(points := (other - by_seed(lc)).dropna())  # of errors
    ]
    return f"{name}: LC-ℓ0 {by_seed(lc, 'error').mean():.2f} %; {'; '.join(parts)}"
