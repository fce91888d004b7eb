"""Figures of the file: bytes layer by layer, which rows and columns are dead, coder by coder."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from lib.workbook.plots.base import finish, marks, named, side_by_side, stacked
from lib.workbook.report.coders import CODERS, PARTS


def file_parts(table: pd.DataFrame, *, title: str) -> Figure:
    """Bytes of a compressed file by what they hold, a stacked bar a row of ``table``.

    The index labels the bars; each column, in bytes, is one part
    (:func:`lib.workbook.report.file_parts`).
    """
    figure, axis = plt.subplots(figsize=(7.2, 0.55 * len(table) + 1.9))
    hatches = ("", "///", "...", "xxx", "|||")
    parts = [
        (table[part], {"label": part, "hatch": hatch})
        for part, hatch in zip(table, hatches, strict=False)
    ]
    stacked(axis.barh, np.arange(len(table)), 0.62, parts)
    for i, total in enumerate(table.sum(axis=1)):
        axis.text(total, i, f" {total:,.0f}", va="center", fontsize=9)
    named(axis, table.index, "y")
    axis.margins(x=0.12)
    axis.set(xlabel="bytes")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    return finish(figure, title, legend=len(parts))


def layers(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Bytes of each layer, a stacked bar a count or coder: values, positions, codebooks.

    ``tables`` is :func:`lib.workbook.report.coders.layers`'s. The hatch tells the bars of a layer
    apart.
    """
    colors = {"value_bits": "C0", "position_bits": "C1", "codebook_bits": "C2"}
    handles = [Patch(facecolor=color, label=PARTS[part]) for part, color in colors.items()]
    names = next(iter(tables.values()))["name"]
    figure, axis = plt.subplots(figsize=(max(7.4, 1.5 + 0.75 * len(names)), 4.4))
    places, width = side_by_side(len(tables), len(names), 0.84)
    hatches = ("", "//", "..", "xx")
    for place, hatch, coder in zip(places, hatches, tables, strict=False):
        parts = [(tables[coder][part] / 8, {"color": color}) for part, color in colors.items()]
        stacked(axis.bar, place, width * 0.94, parts, linewidth=0.3, hatch=hatch)
        look = {"facecolor": "0.6", "edgecolor": "white", "hatch": hatch}
        handles.append(Patch(label=CODERS[coder], **look))
    axis.set(xlabel="layer", ylabel="bytes", title=title)
    named(axis, names, rotation=90 if len(names) > 6 else 0)
    return finish(figure, legend=4, handles=handles)


def mask(nonzero: ArrayLike, *, title: str) -> Figure:
    """A layer's nonzeros, (rows, columns) bool, over its rows and columns that have none at all."""
    nonzero = np.asarray(nonzero)
    alive = nonzero.any(axis=1, keepdims=True) & nonzero.any(axis=0, keepdims=True)
    kinds = {
        "in a row or column without nonzeros": "#E6C878",
        "zero": "#FFFFFF",
        "nonzero": "#0072B2",
    }
    figure, axis = plt.subplots(figsize=(7.4, 1.6 + 6 * min(1, len(nonzero) / nonzero.shape[1])))
    look = {"cmap": ListedColormap(kinds.values()), "vmin": 0, "vmax": 2, "aspect": "auto"}
    axis.imshow(np.where(nonzero, 2, alive), interpolation="nearest", **look)
    axis.set(xlabel="column: an input", ylabel="row: a unit or filter", title=title)
    axis.grid(visible=False)
    handles = [Patch(facecolor=kinds[kind], edgecolor="0.5", label=kind) for kind in kinds]
    return finish(figure, legend=3, handles=handles)


def coders(table: pd.DataFrame, *, title: str) -> Figure:
    """Bytes over those of the zero-order entropy, a group of bars a network, a bar a coder.

    ``table`` has a ``label`` and a column of bytes for each of
    :data:`lib.workbook.report.coders.CODERS`; missing columns and values leave a gap.
    """
    shown = [coder for coder in CODERS if coder in table and coder not in ("nominal", "entropy")]
    figure, axis = plt.subplots(figsize=(8, 1.6 + 0.16 * len(table) * (len(shown) + 1)))
    places, height = side_by_side(len(shown), len(table), 0.84)
    for place, coder in zip(places, shown, strict=True):
        axis.barh(place, table[coder] / table["entropy"], height * 0.92, label=CODERS[coder])
    axis.axvline(1, color="black", linewidth=1, label="zero-order entropy")
    xlabel = "bytes of positions, values and codebooks / their zero-order entropy"
    axis.set(xlabel=xlabel, title=title)
    named(axis, table["label"], "y")
    return finish(figure, legend=len(shown) + 1)


def files(curves: Mapping[str, pd.DataFrame], *, dense: float, title: str) -> Figure:
    """Error against the file's size: what was asked for in bytes, in nominal bits, and published.

    ``curves`` is name → columns ``file`` (bytes), ``error`` (%) and, where there are several seeds,
    ``error_sd``; ``dense`` is the dense network's error.
    """
    figure, axis = plt.subplots(figsize=(7.4, 4.4))
    for i, (name, table) in enumerate(curves.items()):
        spread = table["error_sd"].fillna(0) if "error_sd" in table else None
        look = marks(i) | {"linestyle": "none" if i else "-", "capsize": 3, "label": name}
        axis.errorbar(table["file"] / 1000, table["error"], spread, **look)
    axis.axhline(dense, color="0.4", linestyle=":", label="dense")
    axis.set(xlabel="file, kB", ylabel="test error, %", xscale="log", yscale="log", title=title)
    axis.legend()
    return figure
