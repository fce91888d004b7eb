"""Figures of LC: what each C step does to weights, and how the two copies of them meet."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lib.workbook.plots.base import MARKERS, STYLES, plain_numbers


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
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.9), sharey=True, squeeze=False
    )
    for axis, (name, (outline, points, projected)) in zip(axes[0], panels.items(), strict=True):
        for i, line in enumerate(map(np.asarray, outline)):
            label = "allowed" if i == 0 else None
            if (line[0] == line[-1]).all():
                axis.fill(*line.T, color="C5", alpha=0.35, label=label)
            else:
                axis.plot(*line.T, color="C5", linewidth=4, alpha=0.6, label=label)
        for point, end in zip(np.asarray(points), np.asarray(projected), strict=True):
            if (point != end).any():
                arrow = {"arrowstyle": "-|>", "color": "0.35", "shrinkA": 0, "shrinkB": 2}
                axis.annotate("", end, point, arrowprops=arrow)
        axis.plot(*np.asarray(points).T, "o", color="C0", markersize=5, label="w")
        axis.plot(*np.asarray(projected).T, "s", color="C1", markersize=5, label="θ")
        axis.set(title=name, xlabel="first weight", aspect="equal")
        axis.set(xlim=(-limit, limit), ylim=(-limit, limit))
    axes[0, 0].set_ylabel("second weight")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


def maps(
    w: ArrayLike, panels: Mapping[str, Mapping[str, ArrayLike]], *, at_once: float = 2.5, title: str
) -> Figure:
    """What a C step makes of each weight on its own: w → θ, a panel a cost.

    ``panels`` maps a panel's title to curves, label → θ at each of ``w``. A step of more than
    ``at_once`` times that of w is a jump, and no line is drawn across it.
    """
    w = np.asarray(w)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.4 * len(panels), 3.9), sharey=True, squeeze=False
    )
    for axis, (name, curves) in zip(axes[0], panels.items(), strict=True):
        axis.plot(w, w, color="0.7", linewidth=1, linestyle=":", label="θ = w")
        for i, (label, theta) in enumerate(curves.items()):
            axis.plot(w, broken(w, theta, at_once=at_once), STYLES[i], color=f"C{i}", label=label)
        axis.set(title=name, xlabel="w", aspect="equal")
        axis.legend(fontsize=8, loc="upper left")
    axes[0, 0].set_ylabel("θ")
    figure.suptitle(title)
    return figure


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
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), sharey=True)
    for axis, count in zip(axes, (len(before), largest), strict=True):
        places = np.arange(count)
        axis.plot(places, before[order[:count]], color="black", linewidth=3, alpha=0.25, label="w")
        for i, (label, theta) in enumerate(after.items()):
            sorted_ = np.abs(np.ravel(theta))[order[:count]]
            axis.plot(places, sorted_, linestyle=STYLES[i], color=f"C{i}", label=label)
        axis.set(xlabel="weight, by |w| before, the largest first")
        axis.xaxis.set_major_formatter("{x:,.0f}")
    axes[0].set(ylabel="|weight|", title=f"all {len(before):,}")
    axes[1].set(title=f"the {largest:,} largest")
    axes[1].legend(fontsize=9)
    figure.suptitle(title)
    return figure


def codebooks(weights: ArrayLike, books: Mapping[str, ArrayLike], *, title: str) -> Figure:
    """A layer's histogram, a panel a codebook: a line a value, as high as the share that takes it.

    ``books`` maps a panel's title to the layer with its weights replaced by values.
    """
    weights = np.ravel(weights)
    figure, axes = plt.subplots(
        1, len(books), figsize=(3.4 * len(books), 3.4), sharey=True, squeeze=False
    )
    for axis, (name, quantized) in zip(axes[0], books.items(), strict=True):
        shares = axis.twinx()
        values, counts = np.unique(np.ravel(quantized), return_counts=True)
        lines = shares.vlines(
            values, 0, 100 * counts / len(weights), color="C1", linewidth=2, label="values"
        )
        shares.set(ylim=(0, 108))
        shares.grid(visible=False)
        shares.spines["right"].set_visible(True)
        bars = axis.hist(weights, bins=80, color="C0", alpha=0.45, label="weights before")[2]
        axis.set(title=name, xlabel="weight")
        axis.locator_params(axis="x", nbins=4)
        axis.yaxis.set_major_formatter("{x:,.0f}")
        last = axis is axes[0, -1]
        shares.tick_params(labelright=last)
        if last:
            shares.set_ylabel("weights that take a value (%)")
    axes[0, 0].set_ylabel("weights in a bin")
    figure.legend(
        [bars, lines], ["weights before", "codebook"], loc="outside lower center", ncols=2
    )
    figure.suptitle(title)
    return figure


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
    figure, axes = plt.subplots(
        1, len(layers), figsize=(3.5 * len(layers), 3.5), sharey=True, squeeze=False
    )
    for axis, (name, (values, threshold, rank)) in zip(axes[0], layers.items(), strict=True):
        values = np.asarray(values)
        places, kept = np.arange(1, len(values) + 1), len(values) if rank is None else rank
        axis.plot(places[kept:], values[kept:], ".", color="0.7", label="dropped")
        axis.plot(places[:kept], values[:kept], ".", color="C0", label="kept")
        axis.axhline(threshold, color="C1", linestyle="--", label=line)
        what = "stays whole" if rank is None else f"rank {rank} of {len(values)}"
        axis.set(title=f"{name}: {what}", xlabel="singular value, largest first")
    axes[0, 0].set_ylabel("singular value σ")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


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
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.9), sharey=True, squeeze=False
    )
    for axis, xlabel, (name, curves) in zip(axes[0], xlabels, panels.items(), strict=True):
        for i, (label, (x, y)) in enumerate(curves.items()):
            marks = (
                {"marker": MARKERS[i - 1], "linestyle": "none", "fillstyle": "none"} if i else {}
            )
            axis.plot(x, y, color=f"C{i}", markersize=8, label=label, **marks)
        axis.set(title=name, xlabel=xlabel)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.legend(fontsize=9)
    axes[0, 0].set_ylabel(ylabel)
    figure.suptitle(title)
    return figure


def trained(table: pd.DataFrame, pairs: Mapping[str, Sequence[str]], *, title: str) -> Figure:
    """Test error against the weights kept, a panel a pair of curves, each point with its amount.

    ``table`` is :func:`lib.workbook.report.comparison.results_curve`'s; ``pairs`` maps a panel's
    title to the names of its curves. Bars are ± sd over seeds, the grey line the dense network
    trained on.
    """
    figure, axes = plt.subplots(
        1, len(pairs), figsize=(4.6 * len(pairs), 4.1), sharey=True, squeeze=False
    )
    for axis, (name, curves) in zip(axes[0], pairs.items(), strict=True):
        for i, curve in enumerate(curves):
            rows = table[table["curve"] == curve].sort_values("kept_percent")
            axis.errorbar(
                rows["kept_percent"],
                rows["error"],
                rows["error_sd"],
                capsize=2,
                marker=MARKERS[i],
                linestyle=STYLES[i],
                color=f"C{i}",
                label=curve,
            )
            for row in rows.itertuples():
                axis.annotate(
                    f"{row.amount:g}",
                    (row.kept_percent, row.error),
                    xytext=(5, 6 - 18 * i),
                    textcoords="offset points",
                    fontsize=8,
                    color=f"C{i}",
                )
        axis.axhline(table["control_error"].mean(), color="0.5", linewidth=1, label="dense")
        axis.set(title=name, xlabel="weights kept (%)", xscale="log")
        axis.margins(0.12)
        plain_numbers(axis.xaxis)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("test error (%)")
    figure.suptitle(title)
    return figure


def paths(
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    limits: tuple[tuple[float, float], tuple[float, float]],
    title: str,
) -> Figure:
    """Contours of a loss of two weights with LC's iterates, w and θ, a panel a run.

    ``panels`` maps a panel's title to w and θ, (steps, 2) each; ``limits`` are those of both axes.
    The axes themselves, where one weight is zero, are what is allowed.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.1 * len(panels), 3.7), sharey=True, squeeze=False
    )
    x, y = np.meshgrid(*(np.linspace(*pair, 200) for pair in limits))
    for axis, (name, (w, theta)) in zip(axes[0], panels.items(), strict=True):
        w, theta = np.asarray(w), np.asarray(theta)
        axis.contour(x, y, np.sqrt(loss(x, y)), levels=12, colors="0.8", linewidths=0.7)
        axis.axhline(0, color="C5", linewidth=4, alpha=0.6, label="allowed")
        axis.axvline(0, color="C5", linewidth=4, alpha=0.6)
        axis.plot(*theta.T, "s", color="C1", markersize=4, label="θ, step by step")
        axis.plot(*w.T, ".-", color="C0", linewidth=0.8, markersize=4, label="w, step by step")
        axis.plot(*theta[-1], "s", color="C1", markersize=12, fillstyle="none", label="last θ")
        axis.plot(*w[-1], "o", color="black", markersize=8, fillstyle="none", label="last w")
        axis.set(xlim=limits[0], ylim=limits[1], aspect="equal", xlabel="first weight")
        axis.set_title(name, fontsize=10)
        axis.grid(visible=False)
    axes[0, 0].set_ylabel("second weight")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=5)
    figure.suptitle(title)
    return figure


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
    for i, (label, (x, y)) in enumerate(curves.items()):
        axis.plot(x, y, linestyle=STYLES[i % len(STYLES)], label=label)
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
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.6), sharex=True)
    for axis, (column, label), letter in zip(axes.flat, panels.items(), "abcd", strict=True):
        for i, (name, history) in enumerate(histories.items()):
            axis.plot(
                history["epoch"],
                history[column],
                label=name,
                linestyle=STYLES[i % len(STYLES)],
            )
        axis.set(ylabel=label, yscale="log")
        axis.set_title(f"({letter})", loc="left")
    for axis in axes[1]:
        axis.set(xlabel="epoch")
    # one scale for both losses
    low, high = zip(*(axis.get_ylim() for axis in axes[1]), strict=True)
    for axis in axes[1]:
        axis.set_ylim(min(low), max(high))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title)
    return figure
