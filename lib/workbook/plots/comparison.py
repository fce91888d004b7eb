"""Figures of LC's results and of the methods head to head."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.workbook.plots.base import finish, log_scale, marks, plain_numbers, row


def results_curve(table: pd.DataFrame, *, title: str) -> Figure:
    """Test error, and loss of both splits, against the weights kept, a line a curve.

    ``table`` is :func:`lib.workbook.report.comparison.results_curve`'s; bars are ± sd over seeds. A
    line joins points in the order of their amounts, and turns back where less allowed kept more.
    The grey line is the dense network trained on.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6))
    for i, (name, rows) in enumerate(table.groupby("curve", sort=False)):
        kept, look = rows["kept_percent"], {"markersize": 5} | marks(i)
        left.errorbar(kept, rows["error"], rows["error_sd"], label=name, **look)
        right.plot(kept, rows["loss"], label=f"_{name}, test split", **look)
        look |= {"linestyle": ":", "fillstyle": "none", "label": f"_{name}, training split"}
        right.plot(kept, rows["train_loss"], **look)
    left.axhline(table["control_error"].mean(), color="0.5", label="dense, trained on")
    right.plot([], [], color="0.3", label="test split")
    right.plot([], [], color="0.3", linestyle=":", label="training split")
    right.legend(fontsize=8)
    left.set(xlabel="weights kept (%)", ylabel="test error (%)")
    log_scale(left, "xy")
    right.set(xlabel="weights kept (%)", ylabel="loss (nats an image)", yscale="log")
    log_scale(right, "x")
    return finish(figure, title, legend=4, fontsize=8)


def head_to_head(table: pd.DataFrame, *, title: str) -> Figure:
    """Test error against both rates, and against epochs without and with what was searched.

    ``table`` is :func:`lib.workbook.report.comparison.head_to_head`'s; bars are ± sd over seeds.
    The lower panels are of the middle rate asked for.
    """
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 8.2), sharey="row")
    middle = sorted(table["asked"].unique())[(table["asked"].nunique() - 1) // 2]
    searched = table["epochs"] + table["search_epochs"] + table["tuning_epochs"]
    table = table.assign(error=100 - table["accuracy"], searched=searched)
    panels = {
        "rate": "nominal compression rate",
        "entropy_rate": "compression rate with positions and codebooks (entropy)",
        "epochs": "training epochs, searches left out",
        "searched": "training epochs, searches and trials of knobs counted",
    }
    for axis, (column, label) in zip(axes.flat, panels.items(), strict=True):
        below = axis in axes[1]
        for i, (name, rows) in enumerate(table.groupby("method", sort=False)):
            look = {"markersize": 5, "label": f"_{name}"} | marks(i)
            if column == "rate":
                look["label"] = name
            # all have the same epochs: side by side, in the order of the table
            shift = 1 + (i - 3) * 0.02 if below else 1
            if below:
                rows, look["linestyle"] = rows[rows["asked"] == middle], "none"
            axis.errorbar(rows[column] * shift, rows["error"], rows["accuracy_sd"], **look)
        axis.set(xlabel=label)
        if below:
            axis.set_title(f"at {middle:,.0f}×", fontsize=10)
    for axis in axes.flat:  # once all is drawn, since two share an axis
        log_scale(axis, "xy")
        axis.grid(alpha=0.3, which="both")
    axes[1, 0].set(xlim=np.array([0.5, 2]) * table["epochs"].iloc[0], ylabel="test error (%)")
    return finish(figure, title, ylabel="test error (%)", legend=4, fontsize=8)


def layer_shares(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """What each layer keeps (%), a group of bars a layer; a panel for each share kept in all.

    ``tables`` maps a panel's title to :func:`lib.workbook.report.comparison.layer_shares`.
    """
    figure, panels = row(tables, 3.6, 3.6, sharey=False)
    for axis, table in panels:
        table.plot.bar(ax=axis, logy=True, legend=False, rot=0, color=[f"C{i}" for i in range(7)])
        axis.set(xlabel="")
        plain_numbers(axis.yaxis)
    return finish(figure, title, ylabel="weights kept of the layer (%)", legend=4, fontsize=8)


def earned(table: pd.DataFrame, *, title: str) -> Figure:
    """Test error (%) of each way to choose the weights that stay, ± sd over seeds.

    ``table`` is :func:`lib.workbook.report.comparison.earned`'s.
    """
    figure, axis = plt.subplots(figsize=(7.6, 3.2))
    look = {"xerr": table["accuracy_sd"], "fmt": "o", "capsize": 3}
    axis.errorbar(100 - table["accuracy"], table["what"], **look)
    axis.invert_yaxis()
    axis.set(xlabel="test error (%)", title=title)
    log_scale(axis, "x")
    axis.grid(alpha=0.3, which="both", axis="x")
    axis.margins(y=0.15)
    return figure
