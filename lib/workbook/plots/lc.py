"""Figures of LC: what each C step does to weights, and how the two copies of them meet."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lib.workbook.plots.base import (
    MARKERS,
    Loss,
    by_epoch,
    contours,
    dashes,
    finish,
    log_scale,
    marks,
    note,
    plain_numbers,
    row,
)


def projections(
    panels: Mapping[str, tuple[Sequence[ArrayLike], ArrayLike, ArrayLike]],
    *,
    limit: float,
    title: str,
) -> Figure:
    """Constraint sets of two weights, an arrow from each point to where it is projected.

    ``panels`` maps a panel's title to the set's outline (lines of points, (n, 2) each; one that
    ends where it began is filled), the points and their projections, (points, 2) both.
    """
    figure, drawn = row(panels, 3.4, 3.9)
    for axis, (outline, points, projected) in drawn:
        for i, line in enumerate(map(np.asarray, outline)):
            look = {"color": "C5", "label": None if i else "allowed"}
            if (line[0] == line[-1]).all():
                axis.fill(*line.T, alpha=0.35, **look)
            else:
                axis.plot(*line.T, linewidth=4, alpha=0.6, **look)
        points, projected = np.asarray(points), np.asarray(projected)
        arrow = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 2}
        for point, end in zip(points, projected, strict=True):
            if (point != end).any():
                axis.annotate("", end, point, arrowprops=arrow)
        axis.plot(*points.T, "o", color="C0", markersize=5, label="w")
        axis.plot(*projected.T, "s", color="C1", markersize=5, label="θ")
        edges = (-limit, limit)
        axis.set(xlabel="first weight", aspect="equal", xlim=edges, ylim=edges)
    return finish(figure, title, ylabel="second weight", legend=3)


def maps(w: ArrayLike, panels: Mapping[str, Mapping[str, ArrayLike]], *, title: str) -> Figure:
    """What a C step makes of each weight on its own: w → θ, a panel a cost.

    ``panels`` maps a panel's title to curves, label → θ at each of ``w``. A step of more than
    2.5 times that of w is a jump, and no line is drawn across it.
    """
    w = np.asarray(w)
    figure, drawn = row(panels, 3.4, 3.9)
    for axis, curves in drawn:
        axis.plot(w, w, color="0.7", linewidth=1, linestyle=":", label="θ = w")
        for i, (label, theta) in enumerate(curves.items()):
            axis.plot(w, broken(w, theta, at_once=2.5), label=label, **dashes(i))
        axis.set(xlabel="w", aspect="equal")
        axis.legend(fontsize=8, loc="upper left")
    return finish(figure, title, ylabel="θ")


def broken(w: np.ndarray, theta: ArrayLike, *, at_once: float) -> np.ndarray:
    """θ with NaN at the points before its jumps: steps of over ``at_once`` times that of w."""
    theta = np.array(theta, dtype=float)
    jumps = np.abs(np.diff(theta)) > at_once * np.abs(np.diff(w))
    theta[:-1][jumps] = np.nan
    return theta


def magnitudes(
    before: ArrayLike, after: Mapping[str, ArrayLike], *, largest: int, title: str
) -> Figure:
    """|weights| before and after C steps, the largest first; on the right the ``largest`` ones."""
    before = np.abs(np.ravel(before))
    order = np.argsort(-before)
    panels = {f"all {len(before):,}": order, f"the {largest:,} largest": order[:largest]}
    figure, drawn = row(panels, 5, 3.9)
    for axis, chosen in drawn:
        axis.plot(before[chosen], color="black", linewidth=3, alpha=0.25, label="w")
        for i, (label, theta) in enumerate(after.items()):
            axis.plot(np.abs(np.ravel(theta))[chosen], label=label, **dashes(i))
        axis.set(xlabel="weight, by |w| before, the largest first")
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.legend(fontsize=9)
    return finish(figure, title, ylabel="|weight|")


def codebooks(weights: ArrayLike, books: Mapping[str, ArrayLike], *, title: str) -> Figure:
    """A layer's histogram, a panel a codebook: a line a value, as high as the share that takes it.

    ``books`` maps a panel's title to the layer with its weights replaced by values.
    """
    weights = np.ravel(weights)
    figure, drawn = row(books, 3.4, 3.4)
    for axis, quantized in drawn:
        shares = axis.twinx()
        values, counts = np.unique(np.ravel(quantized), return_counts=True)
        heights, look = 100 * counts / len(weights), {"color": "C1", "linewidth": 2}
        shares.vlines(values, 0, heights, label="codebook", **look)
        shares.set(ylim=(0, 108))
        shares.grid(visible=False)
        shares.spines["right"].set_visible(True)
        shares.tick_params(labelright=axis is drawn[-1][0])
        axis.hist(weights, bins=80, color="C0", alpha=0.45, label="weights before")
        axis.set(xlabel="weight")
        axis.locator_params(axis="x", nbins=4)
        axis.yaxis.set_major_formatter("{x:,.0f}")
    shares.set_ylabel("weights that take a value (%)")
    return finish(figure, title, ylabel="weights in a bin", legend=2, fontsize=10)


def spectra(
    layers: Mapping[str, tuple[ArrayLike, float, int | None]],
    *,
    line: str = "√(2α·price/μ)",
    title: str,
) -> Figure:
    """Singular values of layers, those that are kept coloured, and the line between, labelled.

    ``layers`` maps a layer's name to its singular values, largest first, the threshold above which
    one is kept (worth its price), and the rank that was chosen (``None``: the layer stays whole).
    """
    figure, drawn = row(layers, 3.5, 3.5)
    for axis, (values, threshold, rank) in drawn:
        values = np.asarray(values)
        places, kept = np.arange(1, len(values) + 1), len(values) if rank is None else rank
        axis.plot(places[kept:], values[kept:], ".", color="0.7", label="dropped")
        axis.plot(places[:kept], values[:kept], ".", color="C0", label="kept")
        axis.axhline(threshold, color="C1", linestyle="--", label=line)
        what = "stays whole" if rank is None else f"rank {rank} of {len(values)}"
        axis.set(title=f"{axis.get_title()}: {what}", xlabel="singular value, largest first")
    return finish(figure, title, ylabel="singular value σ", legend=3)


def tradeoffs(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    *,
    xlabels: Sequence[str],
    ylabel: str,
    title: str,
) -> Figure:
    """Error against cost, a panel a cost: the first curve a line, those after it hollow marks.

    ``panels`` maps a panel's title to label → (costs, errors).
    """
    figure, drawn = row(panels, 4.6, 3.9)
    for (axis, curves), xlabel in zip(drawn, xlabels, strict=True):
        for i, (label, points) in enumerate(curves.items()):
            hollow = {"marker": MARKERS[i - 1], "linestyle": "none", "fillstyle": "none"}
            axis.plot(*points, color=f"C{i}", markersize=8, label=label, **hollow if i else {})
        axis.set(xlabel=xlabel)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.legend(fontsize=9)
    return finish(figure, title, ylabel=ylabel)


def trained(table: pd.DataFrame, pairs: Mapping[str, Sequence[str]], *, title: str) -> Figure:
    """Test error against the weights kept, a panel a pair of curves, each point with its amount.

    ``table`` is :func:`lib.workbook.report.comparison.results_curve`'s; ``pairs`` maps a panel's
    title to the names of its curves. Bars are ± sd over seeds, the grey line the dense network
    trained on.
    """
    figure, drawn = row(pairs, 4.6, 4.1)
    for axis, curves in drawn:
        for i, curve in enumerate(curves):
            rows = table[table["curve"] == curve].sort_values("kept_percent")
            kept, error, look = rows["kept_percent"], rows["error"], marks(i) | dashes(i)
            axis.errorbar(kept, error, rows["error_sd"], label=curve, **look)
            for amount, *point in zip(rows["amount"], kept, error, strict=True):
                note(axis, f"{amount:g}", point, (5, 6 - 18 * i), color=f"C{i}")
        axis.axhline(table["control_error"].mean(), color="0.5", linewidth=1, label="dense")
        axis.set(xlabel="weights kept (%)")
        log_scale(axis, "x")
        axis.margins(0.12)
        axis.legend(fontsize=8)
    return finish(figure, title, ylabel="test error (%)")


def paths(
    loss: Loss,
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    limits: Sequence[tuple[float, float]],
    title: str,
) -> Figure:
    """Contours of a loss of two weights with LC's iterates, w and θ, a panel a run.

    ``panels`` maps a panel's title to w and θ, (steps, 2) each; ``limits`` are those of both axes.
    The axes themselves, where one weight is zero, are what is allowed.
    """
    figure, drawn = row(panels, 3.1, 3.7, fontsize=10)
    for axis, (w, theta) in drawn:
        w, theta = np.asarray(w), np.asarray(theta)
        contours(axis, loss, limits, "0.8")
        axis.axhline(0, color="C5", linewidth=4, alpha=0.6, label="allowed")
        axis.axvline(0, color="C5", linewidth=4, alpha=0.6)
        axis.plot(*theta.T, "s", color="C1", markersize=4, label="θ, step by step")
        axis.plot(*w.T, ".-", color="C0", linewidth=0.8, markersize=4, label="w, step by step")
        axis.plot(*theta[-1], "s", color="C1", markersize=12, fillstyle="none", label="last θ")
        axis.plot(*w[-1], "o", color="black", markersize=8, fillstyle="none", label="last w")
    return finish(figure, title, ylabel="second weight", legend=5)


def lines(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    log: str = "y",
) -> Figure:
    """Curves, label → (x, y), each with its own dashes; ``log`` names the logarithmic axes."""
    figure, axis = plt.subplots(figsize=(7.2, 3.7))
    for i, (label, points) in enumerate(curves.items()):
        axis.plot(*points, label=label, **dashes(i))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.set_title(title, fontsize=10)
    for name in log:
        axis.set(**{f"{name}scale": "log"})
        low, high = getattr(axis, f"get_{name}lim")()
        if high < 1e4 * low:  # of more decades powers of ten are the shorter
            plain_numbers(getattr(axis, f"{name}axis"))
    axis.legend(fontsize=8)
    return figure


def meeting(histories: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    """How w and θ meet: μ, their mean squared difference, and the training loss of each.

    ``histories`` maps a label to the history of a traced run of LC.
    """
    panels = {
        "mu": "μ",
        "mse": "mean (w − θ)²",
        "loss": "training loss of w (nats)",
        "compressed_loss": "training loss of θ (nats)",
    }
    figure = by_epoch(histories, panels, (9.6, 6.6), yscale="log")
    losses = figure.axes[2:]
    low, high = zip(*(axis.get_ylim() for axis in losses), strict=True)
    for axis in losses:  # one scale for both
        axis.set_ylim(min(low), max(high))
    return finish(figure, title, legend=len(histories))
