"""What the ImageNet runs cost, drawn: hours by table, and the images that a GPU asks for."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.workbook.plots.base import finish, log_scale, marks, named, note, side_by_side, stacked
from lib.workbook.report.imagenet_costs import PARTS


def costs(made: pd.DataFrame, asked: pd.DataFrame, *, images_a_core: float, title: str) -> Figure:
    """Hours of one GPU by table, estimates; and images a second by network, and what cores read.

    ``made`` is :func:`lib.workbook.report.imagenet_costs.runs`'s table with columns ``…_hours``.
    ``asked`` has a row a network and a column for each of them, without ``_hours``: images a
    second. ``images_a_core`` are those that a core reads in a second.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.6, 4.2))
    names = [f"{name}_hours" for name in asked]
    hours = made.pivot_table(names, "table", "part", "sum", fill_value=0, sort=False)
    places, width = side_by_side(len(names), len(hours), 0.8)
    networks = np.arange(len(asked))
    for i, name in enumerate(asked):
        parts = [
            (hours[names[i], part], {"hatch": hatch, "label": f"{name}: {part}"})
            for part, hatch in zip(PARTS, ("", "///"), strict=True)
        ]
        stacked(left.bar, places[i], 0.95 * width, parts, color=f"C{i}")
        right.plot(asked[name], networks, ls="none", markersize=8, label=name, **marks(i))
    named(left, hours.index, fontsize=8)
    left.set(ylabel="hours of one GPU")
    left.legend(fontsize=8)
    for count in (4, 16, 64):
        read = count * images_a_core
        right.axvline(read, color="0.4", linestyle="--", linewidth=0.8)
        place = {"xycoords": ("data", "axes fraction"), "ha": "center"}
        note(right, f"{count} cores", (read, 1), (0, 3), **place)
    right.set_yticks(networks, asked.index, fontsize=8)
    right.set(xlabel="images a second that a GPU asks for")
    log_scale(right, "x")
    right.margins(0.1, 0.1)
    right.legend(fontsize=8, loc="lower right", frameon=True)
    return finish(figure, title)
