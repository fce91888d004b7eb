"""How LC's two copies of the weights meet: run folders → tables."""

from collections.abc import Mapping

import pandas as pd
import torch

from lib.layers import compressible
from lib.projections.sparsity import l0_constraint
from lib.workbook import experiments
from lib.workbook.report import tables
from lib.workbook.runs import Run


def meetings(histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How each run ended, a row a run: μ, its distance, losses (nats) and accuracies (%).

    ``histories`` maps a label to the history of a traced run of LC. ``mse`` is the mean squared
    difference of w and θ, ``mse_first`` that of the first epoch; ``added`` is what compressing adds
    to the loss of w.
    """
    rows = []
    for label, history in histories.items():
        first, last = history.iloc[0], history.iloc[-1]
        rows.append(
            {
                "run": label,
                "mu_first": first["mu"],
                "mu": last["mu"],
                "mse_first": first["mse"],
                "mse": last["mse"],
                "loss": last["loss"],
                "compressed_loss": last["compressed_loss"],
                "added": last["compressed_loss"] - last["loss"],
                "accuracy": 100 * last["test_accuracy"],
                "compressed_accuracy": 100 * last["compressed_test_accuracy"],
            }
        )
    return pd.DataFrame(rows)


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
        "moved": float((after - first).norm() / first.norm()) if kept else float("nan"),
    }


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`meetings`'s table as it is read: rounded, with units."""
    return pd.DataFrame(
        {
            "run": table["run"],
            "first μ": table["mu_first"].map("{:.3g}".format),
            "last μ": table["mu"].map("{:.3g}".format),
            "first mean (w − θ)²": table["mse_first"].map("{:.1e}".format),
            "last": table["mse"].map("{:.1e}".format),
            "loss of w": table["loss"].map("{:.4f}".format),
            "loss of θ": table["compressed_loss"].map("{:.4f}".format),
            "w, %": table["accuracy"].map("{:.2f}".format),
            "θ, %": table["compressed_accuracy"].map("{:.2f}".format),
        }
    )


def finished_meetings(dataset: str) -> dict[str, pd.DataFrame]:
    """Label → history of those meetings that are there, seed 0; nothing is trained."""
    found = {
        name: tables.finished(e, most=1) for name, e in experiments.lc.meetings(dataset).items()
    }
    return {name: seeds[0].history for name, seeds in found.items() if seeds}


def committed_meetings() -> str:
    """How w and θ met in the committed MNIST runs, as text; one line where none is there."""
    histories = finished_meetings("mnist")
    if not histories:
        return tables.none("how w and θ meet", "mnist")
    table = printed(meetings(histories)).to_string(index=False)
    return f"{experiments.lc.NETWORK} on MNIST\n{table}"
