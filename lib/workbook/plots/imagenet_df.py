"""Figures of DF on ImageNet: Figure 3b with the paper's points, and what went, layer by layer."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.workbook.plots import df
from lib.workbook.plots.base import finish, note

#: A colour and a hatch for each kind of layer.
KINDS = {"k×k": ("C0", ""), "depthwise": ("C3", "..."), "1×1": ("C1", "///")}


def figure_3b(paper: pd.DataFrame, ours: pd.DataFrame | None = None, *, title: str) -> Figure:
    """Figure 3b twice: accuracy (%), and what it lost or gained (points), against the MACs gone.

    ``paper`` is :func:`lib.workbook.report.imagenet_df.reported`'s, grey, its hybrids named and
    DF's joined by lines; ``ours`` :func:`lib.workbook.report.df.curve`'s, or None where no run is
    there.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10.6, 5))
    labels = {"accuracy": "top-1 accuracy (%)", "gain": "accuracy − dense network's (points)"}
    own = paper["algorithm"] == "DF"
    hybrids = paper[~own & (paper["kind"] == "hybrid")]
    for axis, (drawn, label) in zip(axes, labels.items(), strict=True):
        df.reported(axis, paper, column=drawn)
        if ours is not None:
            df.measured(axis, ours, column=drawn)
        axis.plot(paper["reduction"][own], paper[drawn][own], color="0.2", linewidth=1.2)
        for point, rows in hybrids.dropna(subset=[drawn]).groupby(["reduction", drawn]):
            names = ", ".join(rows["algorithm"])
            note(axis, names, point, (5, 4), fontsize=7, color="0.3")
        axis.set(xlabel=df.REDUCTION, ylabel=label)
        axis.margins(0.06, 0.08)
    axis.axhline(0, color="0.5", linewidth=0.8)
    return finish(figure, title, legend=4, fontsize=8)


def layers(panels: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """MACs of an image, layer by layer in the network's order: an outline before, full as built.

    ``panels`` maps a panel's title to :func:`lib.workbook.report.imagenet_df.layers`'s rows. A
    layer that is in factors now has a dot above it.
    """
    size = (9.6, 0.6 + 2.5 * len(panels))
    figure, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False)
    for axis, (name, table) in zip(axes.flat, panels.items(), strict=True):
        axis.set_title(name, fontsize=10)
        places, before = np.arange(len(table)), table["macs"] / 1e6
        outline = {"fill": False, "edgecolor": "0.6", "linewidth": 0.7}
        axis.bar(places, before, 0.9, label="before", **outline)
        for kind, (color, hatch) in KINDS.items():
            rows = (table["kind"] == kind).to_numpy()
            if rows.any():
                look = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
                built = table["built"][rows] / 1e6
                axis.bar(places[rows], built, 0.9, label=f"built, {kind}", **look)
        factored = table["rank"].notna().to_numpy()
        above, dot = before[factored] + 0.04 * before.max(), {"color": "0.2", "markersize": 4}
        axis.plot(places[factored], above, ".", label="in factors", **dot)
        axis.set(xlabel="layer", ylabel="MACs (millions)")
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        axis.grid(axis="x", visible=False)
        axis.margins(x=0.01)
    return finish(figure, title, legend=5, fontsize=8)
