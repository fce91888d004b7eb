"""Figures of DF: the curve beside the paper's, what each half brings, and how choices are made."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.workbook.plots.base import by_epoch, dashes, finish, marks, named, row, stacked
from lib.workbook.report.df import NAMES

#: Ours: a colour and a marker for each method.
LOOKS = {name: marks(i) for i, name in enumerate(NAMES.values())}
LOOKS[list(LOOKS)[7]]["color"] = "#882255"

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
    figure, drawn = row(panels, 4.2, 5.4, 1.6, fontsize=10, sharey=False)
    for axis, (ours, paper) in drawn:
        if paper is not None:
            reported(axis, paper)
        if ours is not None:
            measured(axis, ours)
        axis.axhline(0, color="0.5", linewidth=0.8)
        axis.set(xlabel=REDUCTION)
        axis.margins(0.08, 0.1)
    columns = 2 if all(ours is None for ours, _ in panels.values()) else 3
    ylabel = "accuracy − dense network's (points)"
    return finish(figure, title, ylabel=ylabel, legend=columns, fontsize=8)


def measured(axis: Axes, table: pd.DataFrame, *, column: str = "gain") -> None:
    """Draws our rows: ``gain`` (points) or ``accuracy`` (%) against the MACs that are gone."""
    for method, rows in table.groupby("method", sort=False):
        rows = rows.sort_values("reduction")
        line, width, size = ("-", 2, 7) if method.startswith("DF") else (":", 1.2, 6)
        look = LOOKS[method] | {"ls": line, "lw": width, "markersize": size, "label": method}
        spread = rows[f"{column}_sd"].fillna(0) if (rows["n"] > 1).any() else None
        axis.errorbar(rows["reduction"], rows[column], spread, **look)
    start = table["dense_accuracy"] if column == "gain" else 0
    trained_on = (table["control_accuracy"] - start).mean()
    axis.axhline(trained_on, color="0.3", linestyle="--", linewidth=1, label="dense, trained on")


def reported(axis: Axes, table: pd.DataFrame, *, column: str = "gain") -> None:
    """Draws the paper's rows, grey, a marker a kind; rows that do not state ``column`` stay out."""
    table = table.dropna(subset=[column])
    own = table["algorithm"] == "DF"
    for kind, (marker, fill) in KINDS.items():
        rows = table[(table["kind"] == kind) & ~own]
        look = {"fillstyle": fill, "color": "0.45", "label": f"reported: {kind}"}
        axis.plot(rows["reduction"], rows[column], marker, markersize=6, **look)
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
    panels = {"": table} if paper is None else {"ours": table, "reported": paper}
    figure, drawn = row(panels, 4.4, 4.2, 1.6, fontsize=10, sharey=False)
    for axis, rows in drawn:
        ours = rows is table
        for i, value in enumerate(dict.fromkeys(table[by])):
            line = rows[rows[by] == value].sort_values("reduction")
            spread = line["accuracy_sd"] if ours and (line["n"] > 1).any() else None
            look = marks(i) | dashes(i) | {"label": names[value] if names else value}
            look |= {} if ours else {"color": "0.45", "fillstyle": "none"}
            axis.errorbar(line["reduction"], line["accuracy"], spread, **look)
        if ours:
            look = {"color": "0.3", "linewidth": 1}
            dense, trained_on = rows["dense_accuracy"].mean(), rows["control_accuracy"].mean()
            axis.axhline(dense, linestyle=":", label="dense", **look)
            axis.axhline(trained_on, linestyle="--", label="dense, trained on", **look)
        axis.set(xlabel=REDUCTION)
        axis.legend(fontsize=8)
        axis.margins(0.08, 0.12)
    return finish(figure, title, ylabel="test accuracy (%)")


def parts(table: pd.DataFrame, *, title: str) -> Figure:
    """Figure 4b: MACs that left with filters and MACs that left with ranks, a bar a reduction.

    ``table``: ``asked`` (%), ``filters`` and ``ranks``, in percent of the dense network's MACs.
    """
    figure, axis = plt.subplots(figsize=(6.8, 3.8))
    looks = {"filters": {"color": "C1"}, "ranks": {"color": "C2", "hatch": "///"}}
    bars = [(table[part], {"label": f"with {part}"} | look) for part, look in looks.items()]
    stacked(axis.bar, np.arange(len(table)), 0.6, bars)
    for bar in axis.patches:
        if bar.get_height() >= 3:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
            look = {"ha": "center", "va": "center", "bbox": box}
            axis.text(*bar.get_center(), f"{bar.get_height():.0f}", **look)
    named(axis, [f"{asked:g}" for asked in table["asked"]])
    ylabel = "MACs gone, of the dense network's (%)"
    axis.set(xlabel="reduction asked for (%)", ylabel=ylabel, title=title)
    axis.legend(fontsize=9, loc="upper left", ncols=2)
    axis.margins(y=0.2)
    return figure


def choosing(
    histories: Mapping[str, pd.DataFrame], *, budgets: Sequence[float], title: str
) -> Figure:
    """How filters and ranks are chosen: μ, B, the filters whose mask is over ½, the mean γ/σ₁.

    ``histories`` maps a label to the history of a run of DF; epochs that chose nothing are left
    out. ``budgets`` are lines across B, in percent.
    """
    panels = {
        "mu": "μ",
        "macs_share": "B (% of the dense MACs)",
        "filters_kept": "filters with φ > ½ (%)",
        "mean_threshold": "mean γ/σ₁",
    }
    rows = {name: history.dropna(subset=["mu"]) for name, history in histories.items()}
    for table in rows.values():
        table[["macs_share", "filters_kept"]] *= 100
    figure = by_epoch(rows, panels, (9.6, 6))
    for i, budget in enumerate(budgets):
        look = {"color": "0.3", "linewidth": 0.8, "label": None if i else "B_d"}
        figure.axes[1].axhline(budget, **look)
    return finish(figure, title, legend=min(3, len(rows) + 1))
