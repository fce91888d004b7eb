"""Figures of DF on ImageNet: Figure 3b with the paper's points, and what went, layer by layer."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.workbook.plots import df

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
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        df.reported(axis, paper, column=column)
        if ours is not None:
            df.measured(axis, ours, column=column)
        own = paper["algorithm"] == "DF"
        axis.plot(paper["reduction"][own], paper[column][own], color="0.2", linewidth=1.2)
        hybrids = paper[~own & (paper["kind"] == "hybrid")].dropna(subset=[column])
        for point, rows in hybrids.groupby(["reduction", column]):
            axis.annotate(
                ", ".join(rows["algorithm"]),
                point,
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7,
                color="0.3",
            )
        axis.set(xlabel=df.REDUCTION, ylabel=label)
        axis.margins(0.06, 0.08)
    axes[1].axhline(0, color="0.5", linewidth=0.8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def layers(panels: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """MACs of an image, layer by layer in the network's order: an outline before, full as built.

    ``panels`` maps a panel's title to :func:`lib.workbook.report.imagenet_df.layers`'s rows. A
    layer that is in factors now has a dot above it.
    """
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(9.6, 0.6 + 2.5 * len(panels)), squeeze=False
    )
    for axis, (name, table) in zip(axes[:, 0], panels.items(), strict=True):
        places = np.arange(len(table))
        axis.bar(
            places,
            table["macs"] / 1e6,
            0.9,
            fill=False,
            edgecolor="0.6",
            linewidth=0.7,
            label="before",
        )
        for kind, (color, hatch) in KINDS.items():
            rows = (table["kind"] == kind).to_numpy()
            if rows.any():
                axis.bar(
                    places[rows],
                    table["built"][rows] / 1e6,
                    0.9,
                    color=color,
                    hatch=hatch,
                    edgecolor="white",
                    linewidth=0.3,
                    label=f"built, {kind}",
                )
        factored = table["rank"].notna().to_numpy()
        axis.plot(
            places[factored],
            table["macs"][factored] / 1e6 + 0.04 * table["macs"].max() / 1e6,
            ".",
            color="0.2",
            markersize=4,
            label="in factors",
        )
        axis.set(xlabel="layer", ylabel="MACs (millions)")
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
        axis.set_title(name, fontsize=10)
        axis.grid(axis="x", visible=False)
        axis.margins(x=0.01)
    entries = {}
    for axis in axes[:, 0]:
        handles, labels = axis.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    figure.legend(entries.values(), entries, fontsize=8, loc="outside lower center", ncols=5)
    figure.suptitle(title)
    return figure
