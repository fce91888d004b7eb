"""Figures of what was timed: projections by their size, and training step by step."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.workbook.plots.base import named


def costs(table: pd.DataFrame, *, title: str) -> Figure:
    """Time against size, a line a method. ``table``: ``weights``, ``method``, ``seconds``."""
    figure, axis = plt.subplots()
    for i, (method, rows) in enumerate(table.groupby("method", sort=False)):
        axis.plot(rows["weights"], rows["seconds"], "osD^v"[i % 5] + "-", label=method)
    axis.set(xscale="log", yscale="log", xlabel="weights", ylabel="seconds", title=title)
    axis.legend(fontsize=8)
    return figure


def ladder(table: pd.DataFrame, *, title: str) -> Figure:
    """Images a second, a bar a step, each with its ratio to the bar above.

    ``table``: ``step``, ``images_per_second``, ``times_before``.
    """
    figure, axis = plt.subplots(figsize=(7.6, 0.42 * len(table) + 1.4))
    axis.barh(np.arange(len(table)), table["images_per_second"], 0.62)
    named(axis, table["step"], "y")
    for place, row in enumerate(table.itertuples()):
        ratio = "" if np.isnan(row.times_before) else f"  ({row.times_before:.2f}×)"
        speed = row.images_per_second
        axis.text(speed, place, f" {speed:,.0f}{ratio}", va="center", fontsize=9)
    axis.margins(x=0.25)
    axis.set(xlabel="training images a second", title=title)
    axis.xaxis.set_major_formatter("{x:,.0f}")
    return figure
