"""The figures, drawn from run folders' tables; each returns a figure that is ready for print."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib import paths


def save(figure: Figure, name: str, *, dataset: str) -> None:
    """Writes ``name``.png and ``name``.svg into the data set's figures."""
    folder = paths.results(dataset) / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(folder / f"{name}.{kind}", metadata=metadata)


def convergence(histories: Mapping[float, pd.DataFrame], *, title: str) -> Figure:
    """ADMM Figure 2: training loss of W, of W quantized, and the MSE of W and V, a curve a ρ.

    ``histories`` maps ρ to the history of a traced run.
    """
    panels = {
        "loss": "training loss of W",
        "compressed_loss": "training loss of quantized W",
        "mse": "MSE between W and V",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        for rho, history in histories.items():
            axis.plot(history["epoch"], history[column].clip(lower=1e-12), label=f"ρ = {rho:g}")
        axis.set(xlabel="epoch", ylabel=label, yscale="log")
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def allocation(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """ADMM Figure 3: nonzero weights (log₁₀) and bits of each layer, a bar a network.

    ``tables`` maps a network's label to its ``layers.csv``, or any table with the columns
    ``name``, ``kept`` and ``bits``.
    """
    figure, (counts, bits) = plt.subplots(1, 2, figsize=(10, 3.4))
    width = 0.8 / len(tables)
    for i, (label, table) in enumerate(tables.items()):
        place = np.arange(len(table)) + (i - (len(tables) - 1) / 2) * width
        counts.bar(place, np.log10(table["kept"].clip(lower=1)), width, label=label)
        bits.bar(place, table["bits"], width, label=label)
    for axis, label in ((counts, "nonzero weights, log₁₀"), (bits, "bits a nonzero weight")):
        axis.set(ylabel=label, xlabel="layer")
        axis.set_xticks(np.arange(len(table)), table["name"])
        axis.grid(axis="x", visible=False)
    counts.legend(fontsize=8)
    figure.suptitle(title)
    return figure


def rates(table: pd.DataFrame, *, title: str) -> Figure:
    """Accuracy drop (points) against compression rate: ours, and what the papers report.

    ``table`` has the columns ``method``, ``rate``, ``drop`` (points), ``spread`` (standard
    deviation over seeds or NaN) and ``source`` (``ours`` or ``reported``).
    """
    figure, axis = plt.subplots()
    for source, marker, fill in (("reported", "s", "none"), ("ours", "o", "full")):
        rows = table[table["source"] == source]
        for _, row in rows.iterrows():
            axis.errorbar(
                row["rate"],
                row["drop"],
                yerr=row["spread"],
                marker=marker,
                fillstyle=fill,
                linestyle="none",
                capsize=3,
                label=f"{row['method']} ({source})",
            )
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set(xscale="log", xlabel="nominal compression rate", ylabel="accuracy drop (points)")
    axis.legend(fontsize=8)
    axis.set_title(title)
    return figure
