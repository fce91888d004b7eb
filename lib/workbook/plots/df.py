"""Figures of DF: the curve beside the paper's, what each half brings, and how choices are made."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.workbook.plots.base import MARKERS, STYLES
from lib.workbook.report.df import NAMES

#: Ours: a colour and a marker for each method, DF's joined by lines, what it is compared with dots.
COLORS = dict(zip(NAMES.values(), (*(f"C{i}" for i in range(7)), "#882255"), strict=True))

#: The paper's rows: grey, a hollow marker a kind; its own method's full.
KINDS = {"low-rank": ("^", "none"), "pruning": ("s", "none"), "hybrid": ("D", "none")}

REDUCTION = "MACs less than the dense network (%)"


def curve(
    panels: Mapping[str, tuple[pd.DataFrame | None, pd.DataFrame | None]], *, title: str
) -> Figure:
    """Figure 3a: accuracy minus the dense network's (points) against the MACs that are gone.

    ``panels`` maps a panel's title to our rows (:func:`lib.workbook.report.df.curve`) and the
    paper's (:func:`lib.workbook.report.df.reported`); either may be None. Ours are full and in
    colour, bars ± sd over seeds where there are several, with a line for the dense network trained
    on; the paper's are grey.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.6 + 4.2 * len(panels), 5.4), squeeze=False
    )
    for axis, (name, (ours, paper)) in zip(axes[0], panels.items(), strict=True):
        if paper is not None:
            reported(axis, paper)
        if ours is not None:
            measured(axis, ours)
        axis.axhline(0, color="0.5", linewidth=0.8)
        axis.set(xlabel=REDUCTION)
        axis.set_title(name, fontsize=10)
        axis.margins(0.08, 0.1)
    axes[0, 0].set_ylabel("accuracy − dense network's (points)")
    entries = {}
    for axis in axes[0]:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    columns = 3 if len(entries) > 4 else 2
    figure.legend(entries.values(), entries, fontsize=8, loc="outside lower center", ncols=columns)
    figure.suptitle(title)
    return figure


def measured(axis: Axes, table: pd.DataFrame, *, column: str = "gain") -> None:
    """Draws our rows: ``gain`` (points) or ``accuracy`` (%) against the MACs that are gone."""
    for i, (method, rows) in enumerate(table.groupby("method", sort=False)):
        rows = rows.sort_values("reduction")
        df = method.startswith("DF")
        axis.errorbar(
            rows["reduction"],
            rows[column],
            rows[f"{column}_sd"].fillna(0) if (rows["n"] > 1).any() else None,
            color=COLORS[method],
            marker=MARKERS[i % 8],
            linestyle=STYLES[0] if df else STYLES[3],
            linewidth=2 if df else 1.2,
            markersize=7 if df else 6,
            capsize=2,
            label=method,
        )
    start = table["dense_accuracy"] if column == "gain" else 0
    trained_on = (table["control_accuracy"] - start).mean()
    axis.axhline(trained_on, color="0.3", linestyle="--", linewidth=1, label="dense, trained on")


def reported(axis: Axes, table: pd.DataFrame, *, column: str = "gain") -> None:
    """Draws the paper's rows, grey, a marker a kind; rows that do not state ``column`` stay out."""
    table = table.dropna(subset=[column])
    own = table["algorithm"] == "DF"
    for kind, (marker, fill) in KINDS.items():
        rows = table[(table["kind"] == kind) & ~own]
        axis.plot(
            rows["reduction"],
            rows[column],
            marker,
            fillstyle=fill,
            color="0.45",
            markersize=6,
            label=f"reported: {kind}",
        )
    rows = table[own]
    axis.plot(rows["reduction"], rows[column], "D", color="0.2", label="reported: DF")


def accuracies(
    table: pd.DataFrame,
    *,
    by: str,
    names: Mapping[object, str] | None = None,
    paper: pd.DataFrame | None = None,
    title: str,
) -> Figure:
    """Figures 4a and 5 and Table 1: accuracy (%) against the MACs that are gone, a line a value.

    ``by`` is the column whose values are the lines, ``names`` how they are called. Bars are ± sd
    over seeds where there are several. ``paper`` holds reported rows (``reduction``, ``accuracy``,
    ``by``) for a panel of their own: they are of another network.
    """
    panels = [("ours", table)] + ([("reported", paper)] if paper is not None else [])
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1.6 + 4.4 * len(panels), 4.2), squeeze=False
    )
    values = list(dict.fromkeys(table[by]))
    for axis, (source, rows) in zip(axes[0], panels, strict=True):
        for i, value in enumerate(values):
            line = rows[rows[by] == value].sort_values("reduction")
            several = source == "ours" and (line["n"] > 1).any()
            axis.errorbar(
                line["reduction"],
                line["accuracy"],
                line["accuracy_sd"] if several else None,
                capsize=2,
                marker=MARKERS[i],
                linestyle=STYLES[i],
                color=f"C{i}" if source == "ours" else "0.45",
                fillstyle="full" if source == "ours" else "none",
                label=names[value] if names else value,
            )
        if source == "ours":
            for column, dash, label in (
                ("dense_accuracy", ":", "dense"),
                ("control_accuracy", "--", "dense, trained on"),
            ):
                level = rows[column].mean()
                axis.axhline(level, color="0.3", linestyle=dash, linewidth=1, label=label)
        axis.set(xlabel=REDUCTION)
        if len(panels) > 1:
            axis.set_title(source, fontsize=10)
        axis.legend(fontsize=8)
        axis.margins(0.08, 0.12)
    axes[0, 0].set_ylabel("test accuracy (%)")
    figure.suptitle(title)
    return figure


def parts(table: pd.DataFrame, *, title: str) -> Figure:
    """Figure 4b: MACs that left with filters and MACs that left with ranks, a bar a reduction.

    ``table``: ``asked`` (%), ``filters`` and ``ranks``, in percent of the dense network's MACs.
    """
    figure, axis = plt.subplots(figsize=(6.8, 3.8))
    places = np.arange(len(table))
    floor = np.zeros(len(table))
    for column, color, hatch in (("filters", "C1", ""), ("ranks", "C2", "///")):
        heights = table[column].to_numpy()
        axis.bar(
            places,
            heights,
            0.6,
            floor,
            label=f"with {column}",
            color=color,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
        )
        for place, bottom, height in zip(places, floor, heights, strict=True):
            if height >= 3:
                text = axis.text(
                    place, bottom + height / 2, f"{height:.0f}", ha="center", va="center"
                )
                text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1.5})
        floor += heights
    axis.set_xticks(places, [f"{asked:g}" for asked in table["asked"]])
    axis.set(xlabel="reduction asked for (%)", ylabel="MACs gone, of the dense network's (%)")
    axis.grid(axis="x", visible=False)
    axis.legend(fontsize=9, loc="upper left", ncols=2)
    axis.margins(y=0.2)
    axis.set_title(title)
    return figure


def choosing(
    histories: Mapping[str, pd.DataFrame], *, budgets: Sequence[float] = (), title: str
) -> Figure:
    """How filters and ranks are chosen: μ, B, the filters whose mask is over ½, the mean γ/σ₁.

    ``histories`` maps a label to the history of a run of DF; epochs that chose nothing are left
    out. ``budgets`` are lines across B, in percent.
    """
    panels = {
        "mu": ("μ", 1),
        "macs_share": ("B (% of the dense MACs)", 100),
        "filters_kept": ("filters with φ > ½ (%)", 100),
        "mean_threshold": ("mean γ/σ₁", 1),
    }
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6), sharex=True)
    for axis, (column, (label, scale)), letter in zip(
        axes.flat, panels.items(), "abcd", strict=True
    ):
        for i, (name, history) in enumerate(histories.items()):
            rows = history.dropna(subset=["mu"])
            axis.plot(
                rows["epoch"],
                scale * rows[column],
                label=name,
                linestyle=STYLES[i % len(STYLES)],
                color=f"C{i % 7}",
            )
        if column == "macs_share":
            for i, budget in enumerate(budgets):
                axis.axhline(budget, color="0.3", linewidth=0.8, label=None if i else "B_d")
        axis.set(ylabel=label)
        axis.set_title(f"({letter})", loc="left")
    for axis in axes[1]:
        axis.set(xlabel="epoch")
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(
        handles, labels, fontsize=9, loc="outside lower center", ncols=min(3, len(labels))
    )
    figure.suptitle(title)
    return figure
