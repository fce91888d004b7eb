"""Figures of the file: bytes layer by layer, which rows and columns are dead, coder by coder."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from lib.workbook.report.coders import CODERS, PARTS


def layers(tables: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """Bytes of each layer, a stacked bar a count or coder: values, positions, codebooks.

    ``tables`` is :func:`lib.workbook.report.coders.layers`'s. The hatch tells the bars of a layer
    apart.
    """
    hatches = dict(zip(tables, ("", "//", "..", "xx"), strict=False))
    order = ("value_bits", "position_bits", "codebook_bits")
    names = next(iter(tables.values()))["name"]
    width = 0.84 / len(tables)
    figure, axis = plt.subplots(figsize=(max(7.4, 1.5 + 0.75 * len(names)), 4.4))
    for i, (coder, table) in enumerate(tables.items()):
        place = np.arange(len(table)) + (i - (len(tables) - 1) / 2) * width
        floor = np.zeros(len(table))
        for j, part in enumerate(order):
            size = table[part].to_numpy() / 8
            look = {"color": f"C{j}", "hatch": hatches[coder], "edgecolor": "white"}
            axis.bar(place, size, width * 0.94, bottom=floor, linewidth=0.3, **look)
            floor += size
    parts = [Patch(facecolor=f"C{j}", label=PARTS[part]) for j, part in enumerate(order)]
    bars = [
        Patch(facecolor="0.6", edgecolor="white", hatch=hatches[coder], label=CODERS[coder])
        for coder in tables
    ]
    axis.set(xlabel="layer", ylabel="bytes")
    axis.set_xticks(np.arange(len(names)), names, rotation=90 if len(names) > 6 else 0)
    axis.grid(axis="x", visible=False)
    figure.legend(handles=[*parts, *bars], fontsize=9, loc="outside lower center", ncols=4)
    axis.set_title(title)
    return figure


def mask(nonzero: ArrayLike, *, title: str) -> Figure:
    """A layer's nonzeros, (rows, columns) bool, over its rows and columns that have none at all."""
    nonzero = np.asarray(nonzero)
    dead = ~nonzero.any(axis=1, keepdims=True) | ~nonzero.any(axis=0, keepdims=True)
    kinds = np.where(nonzero, 2, np.where(dead, 0, 1))
    colours = ("#E6C878", "#FFFFFF", "#0072B2")
    figure, axis = plt.subplots(figsize=(7.4, 1.6 + 6 * min(1, len(nonzero) / nonzero.shape[1])))
    look = {"cmap": ListedColormap(colours), "vmin": 0, "vmax": 2, "interpolation": "nearest"}
    axis.imshow(kinds, aspect="auto", **look)
    axis.set(xlabel="column: an input", ylabel="row: a unit or filter")
    axis.grid(visible=False)
    labels = ("in a row or column without nonzeros", "zero", "nonzero")
    patches = [
        Patch(facecolor=colour, edgecolor="0.5", label=label)
        for colour, label in zip(colours, labels, strict=True)
    ]
    figure.legend(handles=patches, fontsize=9, loc="outside lower center", ncols=3)
    axis.set_title(title)
    return figure


def coders(table: pd.DataFrame, *, title: str) -> Figure:
    """Bytes over those of the zero-order entropy, a group of bars a network, a bar a coder.

    ``table`` has a ``label`` and a column of bytes for each of
    :data:`lib.workbook.report.coders.CODERS`; missing columns and values leave a gap.
    """
    shown = [coder for coder in CODERS if coder in table and coder not in ("nominal", "entropy")]
    figure, axis = plt.subplots(figsize=(8, 1.6 + 0.16 * len(table) * (len(shown) + 1)))
    height = 0.84 / len(shown)
    for i, coder in enumerate(shown):
        place = np.arange(len(table)) + (i - (len(shown) - 1) / 2) * height
        axis.barh(place, table[coder] / table["entropy"], height * 0.92, label=CODERS[coder])
    axis.axvline(1, color="black", linewidth=1, label="zero-order entropy")
    axis.set(xlabel="bytes of positions, values and codebooks / their zero-order entropy")
    axis.set_yticks(np.arange(len(table)), table["label"])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    figure.legend(fontsize=9, loc="outside lower center", ncols=len(shown) + 1)
    axis.set_title(title)
    return figure


def files(curves: Mapping[str, pd.DataFrame], *, dense: float, title: str) -> Figure:
    """Error against the file's size: what was asked for in bytes, in nominal bits, and published.

    ``curves`` is name → columns ``file`` (bytes), ``error`` (%) and, where there are several seeds,
    ``error_sd``; ``dense`` is the dense network's error.
    """
    figure, axis = plt.subplots(figsize=(7.4, 4.4))
    for i, (name, table) in enumerate(curves.items()):
        spread = table["error_sd"].fillna(0) if "error_sd" in table else None
        look = {"marker": "os^D"[i], "linestyle": "-" if i == 0 else "none", "color": f"C{i}"}
        kilobytes = table["file"] / 1000
        axis.errorbar(kilobytes, table["error"], spread, label=name, capsize=3, **look)
    axis.axhline(dense, color="0.4", linestyle=":", label="dense")
    axis.set(xlabel="file, kB", ylabel="test error, %", xscale="log", yscale="log")
    axis.legend()
    axis.set_title(title)
    return figure
