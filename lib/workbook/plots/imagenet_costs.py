"""What the ImageNet runs cost, drawn: hours by table, and the images that a GPU asks for."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.workbook.plots.base import MARKERS, STYLES, plain_numbers
from lib.workbook.report.imagenet_costs import PARTS


def costs(
    made: pd.DataFrame,
    asked: pd.DataFrame,
    *,
    images_a_core: float,
    cores: Sequence[int] = (4, 16, 64),
    title: str,
) -> Figure:
    """Hours of one GPU by table, estimates; and images a second by network, and what cores read.

    ``made`` is :func:`lib.workbook.report.imagenet_costs.runs`'s table with columns ``…_hours``.
    ``asked`` has a row a network and a column for each of them, without ``_hours``: images a
    second. ``images_a_core`` are those that a core reads in a second.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.6, 4.2))
    names = list(asked)
    hours = made.pivot_table(
        [f"{name}_hours" for name in names], "table", "part", "sum", fill_value=0, sort=False
    )
    places, width = np.arange(len(hours)), 0.8 / len(names)
    for i, name in enumerate(names):
        floor = np.zeros(len(hours))
        for part, hatch in zip(PARTS, ("", "///"), strict=True):
            heights = hours[f"{name}_hours", part].to_numpy()
            left.bar(
                places + width * (i - (len(names) - 1) / 2),
                heights,
                0.95 * width,
                floor,
                color=f"C{i}",
                hatch=hatch,
                edgecolor="white",
                linewidth=0.5,
                label=f"{name}: {part}",
            )
            floor += heights
        right.plot(
            asked[name],
            np.arange(len(asked)),
            MARKERS[i],
            color=f"C{i}",
            markersize=8,
            label=name,
        )
    left.set_xticks(places, hours.index, fontsize=8)
    left.set(ylabel="hours of one GPU")
    left.grid(axis="x", visible=False)
    left.legend(fontsize=8)
    for count in cores:
        right.axvline(count * images_a_core, color="0.4", linestyle=STYLES[1], linewidth=0.8)
        right.annotate(
            f"{count} cores",
            (count * images_a_core, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=8,
            ha="center",
        )
    right.set_yticks(np.arange(len(asked)), asked.index, fontsize=8)
    right.set(xscale="log", xlabel="images a second that a GPU asks for")
    plain_numbers(right.xaxis)
    right.margins(0.1, 0.1)
    right.legend(fontsize=8, loc="lower right", frameon=True)
    figure.suptitle(title)
    return figure
