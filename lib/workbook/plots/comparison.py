"""Figures of LC's results and of the methods head to head."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.workbook.plots.base import MARKERS, plain_numbers


def results_curve(table: pd.DataFrame, *, title: str) -> Figure:
    """Test error, and loss of both splits, against the weights kept, a line a curve.

    ``table`` is :func:`lib.workbook.report.comparison.results_curve`'s; bars are ± sd over seeds. A
    line joins points in the order of their amounts, and turns back where less allowed kept more.
    The grey line is the dense network trained on.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.6))
    for i, (name, rows) in enumerate(table.groupby("curve", sort=False)):
        look = {"color": f"C{i % 7}", "marker": MARKERS[i % 8], "markersize": 5}
        left.errorbar(
            rows["kept_percent"], rows["error"], rows["error_sd"], capsize=2, label=name, **look
        )
        right.plot(rows["kept_percent"], rows["loss"], label=f"_{name}, test split", **look)
        look |= {"linestyle": ":", "fillstyle": "none", "label": f"_{name}, training split"}
        right.plot(rows["kept_percent"], rows["train_loss"], **look)
    left.axhline(table["control_error"].mean(), color="0.5", label="dense, trained on")
    right.plot([], [], color="0.3", label="test split")
    right.plot([], [], color="0.3", linestyle=":", label="training split")
    right.legend(fontsize=8)
    left.set(ylabel="test error (%)")
    right.set(ylabel="loss (nats an image)")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="weights kept (%)")
        plain_numbers(axis.xaxis)
    plain_numbers(left.yaxis)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def head_to_head(table: pd.DataFrame, *, title: str) -> Figure:
    """Test error against both rates, and against epochs without and with what was searched.

    ``table`` is :func:`lib.workbook.report.comparison.head_to_head`'s; bars are ± sd over seeds.
    The lower panels are of the middle rate asked for.
    """
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 8.2), sharey="row")
    middle = sorted(table["asked"].unique())[(table["asked"].nunique() - 1) // 2]
    searched = table["epochs"] + table["search_epochs"] + table["tuning_epochs"]
    table = table.assign(error=100 - table["accuracy"], searched=searched)
    for i, (name, rows) in enumerate(table.groupby("method", sort=False)):
        look = {"color": f"C{i % 7}", "marker": MARKERS[i % 8], "markersize": 5, "capsize": 2}
        for axis, x in zip(axes[0], ("rate", "entropy_rate"), strict=True):
            axis.errorbar(
                rows[x],
                rows["error"],
                rows["accuracy_sd"],
                label=name if x == "rate" else f"_{name}",
                **look,
            )
        at = rows[rows["asked"] == middle]
        look |= {"linestyle": "none", "label": f"_{name}"}
        for axis, x in zip(axes[1], ("epochs", "searched"), strict=True):
            # all have the same epochs: side by side, in the order of the table
            shift = 1 + (i - 3) * 0.02
            axis.errorbar(at[x] * shift, at["error"], at["accuracy_sd"], **look)
    axes[0, 0].set(xlabel="nominal compression rate", ylabel="test error (%)")
    axes[0, 1].set(xlabel="compression rate with positions and codebooks (entropy)")
    axes[1, 0].set(xlabel="training epochs, searches left out", ylabel="test error (%)")
    axes[1, 1].set(xlabel="training epochs, searches and trials of knobs counted")
    for axis in axes.flat:
        axis.set(xscale="log", yscale="log")
        plain_numbers(axis.xaxis)
        plain_numbers(axis.yaxis)
        axis.grid(alpha=0.3, which="both")
    axes[1, 0].set_title(f"at {middle:,.0f}×", fontsize=10)
    axes[1, 1].set_title(f"at {middle:,.0f}×", fontsize=10)
    axes[1, 0].set_xlim(*np.array([0.5, 2]) * table["epochs"].iloc[0])
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def layer_shares(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """What each layer keeps (%), a group of bars a layer; a panel for each share kept in all.

    ``tables`` maps a panel's title to :func:`lib.workbook.report.comparison.layer_shares`.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables), 3.6), squeeze=False)
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        table.plot.bar(ax=axis, logy=True, legend=False, rot=0, color=[f"C{i}" for i in range(7)])
        axis.set(title=name, xlabel="")
        plain_numbers(axis.yaxis)
    axes[0, 0].set(ylabel="weights kept of the layer (%)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def earned(table: pd.DataFrame, *, title: str) -> Figure:
    """Test error (%) of each way to choose the weights that stay, ± sd over seeds.

    ``table`` is :func:`lib.workbook.report.comparison.earned`'s.
    """
    figure, axis = plt.subplots(figsize=(7.6, 3.2))
    axis.errorbar(
        100 - table["accuracy"], table["what"], xerr=table["accuracy_sd"], fmt="o", capsize=3
    )
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="test error (%)", title=title)
    plain_numbers(axis.xaxis)
    axis.grid(alpha=0.3, which="both", axis="x")
    axis.margins(y=0.15)
    return figure
