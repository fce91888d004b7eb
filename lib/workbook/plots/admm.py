"""Figures of ADMM: its projections, its two copies of the weights, its allocation, its tables."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lib.workbook.plots.base import (
    Loss,
    by_epoch,
    contours,
    dashes,
    finish,
    log_scale,
    marks,
    named,
    note,
    row,
    side_by_side,
)

#: What the methods of Table 4 do: a marker and a name each.
MODES = {
    "joint": ("o", "joint"),
    "prune": ("s", "pruning only"),
    "quantize": ("^", "quantization only"),
}


def plane(
    loss: Loss,
    trajectories: Mapping[str, ArrayLike],
    *,
    allowed: ArrayLike,
    limits: tuple[float, float],
    title: str,
) -> Figure:
    """Contours of a loss of two weights, a panel a trajectory, and the points that are allowed.

    ``trajectories`` maps a panel's title to points (steps, 2); ``allowed`` is (points, 2).
    """
    figure, panels = row(trajectories, 3.4, 3.7, sharey=False)
    for axis, points in panels:
        points = np.asarray(points)
        contours(axis, loss, (limits, limits), "0.75")
        axis.plot(
            *np.asarray(allowed).T, "s", color="black", markersize=5, label="quantized values"
        )
        axis.plot(*points.T, "-", linewidth=0.8, color="C0")
        axis.plot(*points.T, ".", markersize=4, color="C0", label="W, step by step")
        ring = {"markersize": 9, "fillstyle": "none", "color": "C1"}
        axis.plot(*points[-1], "o", label="W at the end", **ring)
    return finish(figure, title, ylabel="second weight", legend=3, fontsize=10)


def number_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str
) -> Figure:
    """Which value of a codebook each weight goes to: a row a codebook, weights above, levels below.

    ``lines`` maps a row's label to (weights, levels); equal weights are stacked.
    """
    size = (8, 1.3 * len(lines) + 0.9)
    figure, axes = plt.subplots(len(lines), 1, figsize=size, sharex=True, squeeze=False)
    for axis, (label, (weights, levels)) in zip(axes.flat, lines.items(), strict=True):
        axis.set_title(label, fontsize=10, loc="left")
        weights, levels = np.sort(weights), np.sort(levels)
        nearest = np.abs(weights[:, None] - levels).argmin(1)
        for i, level in enumerate(levels):
            color = "0.45" if level == 0 else f"C{(levels[:i] != 0).sum()}"
            mine = weights[nearest == i]
            for weight in np.unique(mine):
                axis.plot([weight, level], [1, 0], color=color, linewidth=1)
                stack = 1 + 0.22 * np.arange((mine == weight).sum())
                axis.plot(np.full(len(stack), weight), stack, "o", color=color, markersize=5)
            axis.plot(level, 0, "s", color=color, markersize=8)
            note(axis, f"{level:.3g}", (level, 0), (0, -14), ha="center", color=color)
        axis.set(ylim=(-0.75, 1.9), yticks=[0, 1], yticklabels=["codebook", "weights"])
        axis.tick_params(left=False)
        axis.spines["left"].set_visible(False)
        axis.grid(visible=False)
    axis.set_xlabel("value")
    return finish(figure, title)


def error_curves(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, log: bool = True, title: str
) -> Figure:
    """Quantization error against bits; the line is the lower convex hull, choices off it hollow.

    ``panels`` maps a panel's title to its curves, a curve's label to the errors at 1, 2, … bits.
    """
    figure, drawn = row(panels, 4.2, 3.8, 0.8, fontsize=10)
    for axis, curves in drawn:
        for i, (label, errors) in enumerate(curves.items()):
            errors, bits = np.asarray(errors), np.arange(1, len(errors) + 1)
            on = on_hull(errors)
            between = np.linspace(1, len(errors), 40 * len(errors))  # hulls bend on a log scale
            style = {"marker": "osD^v"[i % 5], "color": f"C{i}", "linestyle": "none"}
            axis.plot(between, np.interp(between, bits[on], errors[on]), color=f"C{i}", lw=1)
            axis.plot(bits[on], errors[on], label=label, **style)
            axis.plot(bits[~on], errors[~on], fillstyle="none", markersize=9, **style)
        axis.set(xlabel="bits a weight", yscale="log" if log else "linear", xticks=bits)
        axis.legend(fontsize=8)
    return finish(figure, title, ylabel="quantization error / Σ weights²")


def on_hull(errors: np.ndarray) -> np.ndarray:
    """Which of the points (1, e₁), (2, e₂), … are corners of their lower convex hull, a bool each.

    Repeated errors count as corners only where they first occur, and at the last point.
    """
    places = range(len(errors))
    return np.array(
        [
            not any(
                (errors[j] - errors[i]) * (k - i) >= (errors[k] - errors[i]) * (j - i)
                for i in places[:j]
                for k in places[j + 1 :]
            )
            for j in places
        ]
    )


def kept_by_layer(
    layers: Mapping[str, tuple[np.ndarray, int]], *, threshold: float, title: str
) -> Figure:
    """What a knapsack keeps: a histogram of w²/b a layer, and the one threshold for all.

    ``layers`` maps a layer's name to its weights and their bits; weights with w²/b of at least
    ``threshold`` are kept.
    """
    worth = {name: np.square(w.ravel(), dtype=float) / b for name, (w, b) in layers.items()}
    cut, step = np.log10(threshold), 1 / 14
    top = np.log10(max(ratio.max() for ratio in worth.values()))
    # the threshold is an edge of the bins; four decades below it the axis ends
    right = cut + step * np.arange(np.ceil((top - cut) / step) + 1)
    left = cut - step * np.arange(56, 0, -1)
    size = (7, 1.15 * len(layers) + 1.2)
    figure, axes = plt.subplots(len(layers), 1, figsize=size, sharex=True, squeeze=False)
    for axis, (name, ratio) in zip(axes.flat, worth.items(), strict=True):
        for edges, chosen, label, color in (
            (np.r_[left, cut], ratio < threshold, "removed", "0.7"),
            (right, ratio >= threshold, "kept", "C0"),
        ):
            shown = np.log10(np.maximum(ratio[chosen], 1e-300))
            axis.hist(shown, edges, color=color, label=label)
        axis.axvline(cut, color="C1", linewidth=1.2)
        kept, bits = (ratio >= threshold).sum(), layers[name][1]
        text = f"{name}, {bits} bits\n{kept:,} of {len(ratio):,} kept"
        axis.text(0.01, 0.95, text, transform=axis.transAxes, va="top", fontsize=8)
        axis.set(yscale="log", ylabel="weights")
    axis.set_xlabel("log₁₀ of w²/b, what a weight is worth per bit")
    return finish(figure, title, legend=2)


def convergence(histories: Mapping[float | str, pd.DataFrame], *, title: str) -> Figure:
    """ADMM Figure 2: training loss of W, of W quantized, and the MSE of W and V, a curve a ρ.

    ``histories`` maps ρ, a number or in words, to the history of a traced run.
    """
    panels = {
        "loss": "training loss of W (nats)",
        "compressed_loss": "training loss of quantized W (nats)",
        "mse": "MSE between W and V",
    }
    curves = {}
    for rho, history in histories.items():
        name = rho if isinstance(rho, str) else f"{rho:g}"
        curves[f"ρ = {name}"] = history[["epoch", *panels]].clip(lower=1e-12)
    figure = by_epoch(curves, panels, (11, 3.6), rows=1, yscale="log")
    figure.axes[0].legend(fontsize=8)
    return finish(figure, title)


def allocation(
    tables: Mapping[str, pd.DataFrame], *, references: Mapping[str, pd.DataFrame], title: str
) -> Figure:
    """ADMM Figure 3: nonzero weights (log₁₀) and bits of each layer, a bar a network.

    ``tables`` maps a network's label to its ``layers.csv``, or any table with the columns
    ``name``, ``kept`` and ``bits``. ``references`` holds, for the same labels, what each bar is
    compared with (such as a uniform allocation), drawn as a black line across the bar. All tables
    hold the same layers. Of more than eight layers the two panels stand one over the other.
    """
    names = next(iter(tables.values()))["name"]
    many = len(names) > 8
    turned = many or max(map(len, names)) > 8
    size = (max(10, 1.5 + 0.22 * len(names)), 6.6) if many else (10, 4.3 if turned else 3.6)
    figure, axes = plt.subplots(*((2, 1) if many else (1, 2)), figsize=size, sharex=many)
    panels = {
        "nonzero weights, log₁₀": lambda table: np.log10(table["kept"].clip(lower=1)),
        "bits a nonzero weight": lambda table: table["bits"],
    }
    line = {"color": "black", "lw": 1.2 if many else 1.8}
    places, width = side_by_side(len(tables), len(names), 0.8)
    for axis, (ylabel, heights) in zip(axes, panels.items(), strict=True):
        for place, (label, table) in zip(places, tables.items(), strict=True):
            axis.bar(place, heights(table), width * 0.94, label=label)
            ends = (place - width / 2, place + width / 2)
            axis.hlines(heights(references[label]), *ends, label=f"_{label}, uniform", **line)
        axis.plot([], [], label="uniform, same size", **line)
        axis.set(ylabel=ylabel, xlabel="" if many and axis is axes[0] else "layer")
        named(axis, names, **{"rotation": 90, "fontsize": 8} if turned else {})
        axis.margins(x=0.01 if many else 0.05)
    return finish(figure, title, legend=min(3, len(tables) + 1))


def layer_history(history: pd.DataFrame, names: list[str], *, title: str) -> Figure:
    """Nonzero weights and bits of each layer after each epoch, from a run of ADMM."""
    figure, (kept, bits) = plt.subplots(1, 2, figsize=(10, 3.4))
    for i, name in enumerate(names):
        look = {"label": name} | dashes(i)
        kept.plot(history["epoch"], history[f"{name}.kept"], **look)
        bits.plot(history["epoch"], history[f"{name}.bits"], drawstyle="steps-mid", **look)
    kept.set(xlabel="epoch", ylabel="nonzero weights")
    log_scale(kept, "y")
    bits.set(xlabel="epoch", ylabel="bits a nonzero weight")
    return finish(figure, title, legend=min(8, len(names)))


def rates(table: pd.DataFrame, *, title: str) -> Figure:
    """Accuracy drop (points) against nominal compression rate: ours, and what the papers report.

    ``table`` is :func:`lib.workbook.report.table_3`'s. A bar is the 95 % interval of
    :func:`lib.workbook.report.interval`; the papers state none. Ours crowd at a few rates: each has
    a colour, and its name in the legend.
    """
    figure, axis = plt.subplots(figsize=(7.6, 4.6))
    reported, ours = (table[table["source"] == source] for source in ("reported", "ours"))
    look = {"fillstyle": "none", "color": "0.3", "label": "reported in the paper"}
    axis.plot(reported["rate"], reported["drop_points"], "s", **look)
    for i, line in enumerate(reported.to_dict("records")):
        point = (line["rate"], line["drop_points"])
        note(axis, line["method"], point, (6, -13 if i % 2 else 6))
    for i, line in enumerate(ours.to_dict("records")):
        # of two at one rate the second is drawn 1.5 % beside it, to tell their bars apart
        rate = line["rate"] * 1.015 ** int((ours["rate"].iloc[:i] == line["rate"]).sum())
        look = {"capsize": 3, "linestyle": "none", "label": line["method"]} | marks(i)
        axis.errorbar(rate, line["drop_points"], _interval(line), **look)
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set(xlabel="nominal compression rate", ylabel="accuracy drop (points)")
    log_scale(axis, "x")
    axis.margins(x=0.2, y=0.2)
    axis.set_title(f"{title}; bars: 95 % interval" if len(ours) else title)
    return finish(figure, legend=2, fontsize=8)


def _interval(line: Mapping[str, float]) -> list[list[float]]:
    """How far the interval of a row's drop reaches down and up."""
    drop = line["drop_points"]
    return [[drop - line["drop_low"]], [line["drop_high"] - drop]]


def rates_by_network(table: pd.DataFrame, *, panels: Mapping[str, str], title: str) -> Figure:
    """ADMM Table 4 drawn: accuracy drop (points) against compression rate, a panel a data set.

    ``table`` is :func:`lib.workbook.report.table_4`'s; the rate is its ``paper_rate``. ``panels``
    maps a data set of the column ``data`` to what its panel is called. A colour is a network, a
    marker a mode. Ours are full, with the 95 % interval of :func:`lib.workbook.report.interval`;
    reported ones are hollow. Epochs (dense + compression) are noted where our rows differ in them.
    """
    colors = {name: f"C{i}" for i, name in enumerate(table["network"].unique())}
    schedules = len(table[["dense_epochs", "epochs"]].dropna().drop_duplicates())
    limits = (1, 4 * table["paper_rate"].max())
    shown = {heading: table[table["data"] == name] for name, heading in panels.items()}
    figure, drawn = row(shown, 4.4, 4.2, 1, fontsize=10, sharey=False, sharex=True)
    for axis, lines in drawn:
        for line in lines.to_dict("records"):
            ours, (marker, mode) = line["source"] == "ours", MODES[line["mode"]]
            point = (line["paper_rate"], line["drop_points"])
            look = {"marker": marker, "markersize": 7, "color": colors[line["network"]]}
            look |= {"fillstyle": "full" if ours else "none", "linestyle": "none", "capsize": 3}
            label = f"_{line['network']}, {line['method']}, {mode}"
            axis.errorbar(*point, _interval(line) if ours else None, label=label, **look)
            text = "" if line["method"].startswith("ADMM") else line["method"]
            if ours and schedules > 1:
                text = f"{line['dense_epochs']:.0f} + {line['epochs']:.0f} epochs"
            note(axis, text, point, (7, 5))
        axis.axhline(0, color="0.5", linewidth=0.8)
        axis.set(xscale="log", xlabel="compression rate, as the budget counts it", xlim=limits)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter("")
        axis.margins(y=0.2)
    looks = [(name, "D", color, "full") for name, color in colors.items()]
    looks += [(mode, marker, "0.3", "none") for marker, mode in MODES.values()]
    looks += [("reported in the paper", "o", "0.3", "none")]
    looks += [("this workbook, 95 % interval", "o", "0.3", "full")]
    handles = [
        plt.Line2D([], [], ls="none", label=label, marker=marker, color=color, fillstyle=fill)
        for label, marker, color, fill in looks
    ]
    ylabel = "accuracy drop (points)"
    return finish(figure, title, ylabel=ylabel, legend=4, fontsize=8, handles=handles)
