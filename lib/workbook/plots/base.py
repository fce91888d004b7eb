"""What the figures share: the style, the frame of a figure, bars and axes; and grey images."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lib import atomic

#: The style sheet of every figure.
STYLE = Path(__file__).parent / "workbook.mplstyle"

#: Curves differ in their dashes as well as in their colours.
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "os^vDP*X"

#: A loss of two weights, each an array.
Loss = Callable[[np.ndarray, np.ndarray], np.ndarray]


def save(figure: Figure, name: str, folder: Path) -> None:
    """Writes ``name``.png and ``name``.svg into ``folder``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, changing in (("png", "Software"), ("svg", "Date")):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, metadata={changing: None})
        atomic.write(folder / f"{name}.{kind}", drawn.getvalue())


def row(
    panels: Mapping[str, Any],
    width: float,
    height: float,
    more: float = 0,
    *,
    fontsize: float | str = "large",
    **shared: bool,
) -> tuple[Figure, list[tuple[Axes, Any]]]:
    """A figure with panels side by side, and each panel's axes with what is to be drawn there.

    ``panels`` maps a panel's title to that. A panel is ``width`` by ``height`` inches, and the
    figure ``more`` inches wider than all of them. They share the y axis unless ``shared`` says
    otherwise.
    """
    options = {"figsize": (more + width * len(panels), height), "sharey": True} | shared
    figure, (axes,) = plt.subplots(1, len(panels), squeeze=False, **options)
    for axis, name in zip(axes, panels, strict=True):
        axis.set_title(name, fontsize=fontsize)
    return figure, list(zip(axes, panels.values(), strict=True))


def by_epoch(
    histories: Mapping[str, pd.DataFrame],
    panels: Mapping[str, str],
    size: tuple[float, float],
    *,
    rows: int = 2,
    yscale: str = "linear",
) -> Figure:
    """A figure with lettered panels in ``rows``: a column of the histories each, by epoch.

    ``panels`` maps a column to its label.
    """
    figure, axes = plt.subplots(rows, len(panels) // rows, figsize=size, sharex=True)
    for axis, (column, label), letter in zip(axes.flat, panels.items(), "abcd", strict=False):
        for i, (name, history) in enumerate(histories.items()):
            axis.plot(history["epoch"], history[column], label=name, **dashes(i))
        axis.set(ylabel=label, yscale=yscale)
        axis.set_title(f"({letter})", loc="left")
        if axis.get_subplotspec().is_last_row():
            axis.set(xlabel="epoch")
    return figure


def finish(
    figure: Figure,
    title: str = "",
    *,
    ylabel: str = "",
    legend: int = 0,
    fontsize: float = 9,
    handles: Iterable[Artist] = (),
) -> Figure:
    """The figure with a title over all panels, and with what is common to them written once.

    ``ylabel`` stands at the first panel. With ``legend``, its number of columns, all labels stand
    below the panels, each of the first panel that has it, and then those of ``handles``.
    """
    if ylabel:
        figure.axes[0].set_ylabel(ylabel)
    if legend:
        entries: list = []
        for axis in figure.axes:
            there = {label for _, label in entries}
            found = zip(*axis.get_legend_handles_labels(), strict=True)
            entries += [(handle, label) for handle, label in found if label not in there]
        entries += [(handle, handle.get_label()) for handle in handles]
        drawn, labels = ([entry[i] for entry in entries] for i in (0, 1))
        place = {"loc": "outside lower center", "ncols": legend}
        figure.legend(drawn, labels, fontsize=fontsize, **place)
    if title:
        figure.suptitle(title)
    return figure


def dashes(i: int) -> dict[str, Any]:
    """The look of a figure's curve number ``i``."""
    return {"linestyle": STYLES[i % len(STYLES)], "color": f"C{i % 7}"}


def marks(i: int) -> dict[str, Any]:
    """The look of a figure's points number ``i``."""
    return {"marker": MARKERS[i % len(MARKERS)], "color": f"C{i % 7}"}


def note(axis: Axes, text: str, point: Any, offset: tuple[float, float], **look: Any) -> None:
    """Writes ``text`` beside a point, ``offset`` points (of print) away from it."""
    look.setdefault("fontsize", 8)
    axis.annotate(text, point, xytext=offset, textcoords="offset points", **look)


def side_by_side(count: int, groups: int, room: float) -> tuple[np.ndarray, float]:
    """Where ``count`` bars of each group stand, (``count``, ``groups``), and how wide a bar is."""
    width = room / count
    return np.arange(groups) + width * (np.arange(count)[:, None] - (count - 1) / 2), width


def stacked(
    bar: Callable,
    places: ArrayLike,
    width: float,
    parts: Iterable[tuple[ArrayLike, Mapping[str, Any]]],
    **look: Any,
) -> None:
    """Draws bars one on the other by ``Axes.bar`` or ``Axes.barh``: heights with their look."""
    floor = np.zeros(len(places))
    for heights, own in parts:
        bar(places, heights, width, floor, edgecolor="white", **{"linewidth": 0.5} | look | own)
        floor += heights


def named(axis: Axes, names: Sequence[str], which: str = "x", **look: Any) -> None:
    """Names in place of numbers below bars, or with ``which="y"`` beside them, from the top."""
    getattr(axis, f"set_{which}ticks")(np.arange(len(names)), names, **look)
    axis.grid(axis=which, visible=False)
    if which == "y":
        axis.invert_yaxis()


def log_scale(axis: Axes, which: str) -> None:
    """Makes the axes named in ``which`` logarithmic, with :func:`plain_numbers`."""
    axis.set(**{f"{name}scale": "log" for name in which})
    for name in which:
        plain_numbers(getattr(axis, f"{name}axis"))


def plain_numbers(axis: Axis) -> None:
    """Numbers instead of powers of ten on a logarithmic axis, at 1, 2 and 5 of each decade."""
    axis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axis.set_minor_formatter("")


def contours(axis: Axes, loss: Loss, limits: Sequence[tuple[float, float]], color: str) -> None:
    """Draws the contours of a loss of two weights within the limits of both."""
    x, y = np.meshgrid(*(np.linspace(*pair, 200) for pair in limits))
    axis.contour(x, y, np.sqrt(loss(x, y)), levels=12, colors=color, linewidths=0.7)
    axis.set(xlim=limits[0], ylim=limits[1], aspect="equal", xlabel="first weight")
    axis.grid(visible=False)


def images(rows: Mapping[str, ArrayLike], *, title: str, signed: bool = False) -> Figure:
    """Rows of small grey images, (count, height, width) each, all on one scale.

    ``signed`` images are drawn from blue (negative) over white (exactly zero) to red.
    """
    rows = {label: np.asarray(row) for label, row in rows.items()}
    count = max(map(len, rows.values()))
    most = max(np.abs(row).max() for row in rows.values())
    look = {"cmap": "RdBu_r", "vmin": -most} if signed else {"cmap": "gray_r", "vmin": 0}
    size = (0.48 * count + 1, 0.62 * len(rows) + 0.4)
    figure, axes = plt.subplots(len(rows), count, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        line[0].text(-0.25, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image, vmax=most, **look)
            frame = {"transform": axis.transAxes, "fill": False, "clip_on": False}
            axis.add_patch(plt.Rectangle((0, 0), 1, 1, linewidth=0.5, **frame))
    return finish(figure, title)
