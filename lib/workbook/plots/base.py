"""The figures, drawn from run folders' tables; each returns a figure that is ready for print."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lib import atomic

#: The style sheet of every figure.
STYLE = Path(__file__).parent / "workbook.mplstyle"

#: Curves differ in their dashes as well as in their colours.
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
MARKERS = "os^vDP*X"


def save(figure: Figure, name: str, folder: Path) -> None:
    """Writes ``name``.png and ``name``.svg into ``folder``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        drawn = io.BytesIO()
        figure.savefig(drawn, format=kind, metadata=metadata)
        atomic.write(folder / f"{name}.{kind}", drawn.getvalue())


def images(rows: Mapping[str, ArrayLike], *, title: str, signed: bool = False) -> Figure:
    """Rows of small grey images, (count, height, width) each, all on one scale.

    ``signed`` images are drawn from blue (negative) over white (exactly zero) to red.
    """
    rows = {label: np.asarray(row) for label, row in rows.items()}
    count = max(len(row) for row in rows.values())
    most = max(np.abs(row).max() for row in rows.values())
    look = {"cmap": "RdBu_r", "vmin": -most} if signed else {"cmap": "gray_r", "vmin": 0}
    figure, axes = plt.subplots(
        len(rows), count, figsize=(0.48 * count + 1, 0.62 * len(rows) + 0.4), squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        line[0].text(-0.25, 0.5, label, transform=line[0].transAxes, ha="right", va="center")
        for axis, image in zip(line, row, strict=False):
            axis.imshow(image, vmax=most, **look)
            corner, frame = (0, 0), {"transform": axis.transAxes, "fill": False, "clip_on": False}
            axis.add_patch(plt.Rectangle(corner, 1, 1, linewidth=0.5, **frame))
    figure.suptitle(title)
    return figure


def plane(
    loss: Callable[[np.ndarray, np.ndarray], np.ndarray],
    trajectories: Mapping[str, ArrayLike],
    *,
    allowed: ArrayLike,
    limits: tuple[float, float],
    title: str,
) -> Figure:
    """Contours of a loss of two weights, a panel a trajectory, and the points that are allowed.

    ``trajectories`` maps a panel's title to points (steps, 2); ``allowed`` is (points, 2).
    """
    figure, axes = plt.subplots(1, len(trajectories), figsize=(3.4 * len(trajectories), 3.7))
    grid = np.linspace(*limits, 200)
    x, y = np.meshgrid(grid, grid)
    allowed = np.asarray(allowed)
    for axis, (label, points) in zip(np.atleast_1d(axes), trajectories.items(), strict=True):
        points = np.asarray(points)
        axis.contour(x, y, np.sqrt(loss(x, y)), levels=12, colors="0.75", linewidths=0.7)
        axis.plot(*allowed.T, "s", color="black", markersize=5, label="quantized values")
        axis.plot(*points.T, "-", linewidth=0.8, color="C0")
        axis.plot(*points.T, ".", markersize=4, color="C0", label="W, step by step")
        axis.plot(
            *points[-1], "o", markersize=9, fillstyle="none", color="C1", label="W at the end"
        )
        axis.set(title=label, xlabel="first weight", xlim=limits, ylim=limits, aspect="equal")
        axis.grid(visible=False)
    np.atleast_1d(axes)[0].set_ylabel("second weight")
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.suptitle(title)
    return figure


def convergence(histories: Mapping[float | str, pd.DataFrame], *, title: str) -> Figure:
    """ADMM Figure 2: training loss of W, of W quantized, and the MSE of W and V, a curve a ρ.

    ``histories`` maps ρ, a number or in words, to the history of a traced run.
    """
    panels = {
        "loss": "training loss of W (nats)",
        "compressed_loss": "training loss of quantized W (nats)",
        "mse": "MSE between W and V",
    }
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
    for axis, (column, label), letter in zip(axes, panels.items(), "abc", strict=True):
        for i, (rho, history) in enumerate(histories.items()):
            axis.plot(
                history["epoch"],
                history[column].clip(lower=1e-12),
                label=f"ρ = {rho if isinstance(rho, str) else format(rho, 'g')}",
                linestyle=STYLES[i % len(STYLES)],
            )
        axis.set(xlabel="epoch", ylabel=label, yscale="log")
        axis.set_title(f"({letter})", loc="left")
    axes[0].legend(fontsize=8)
    figure.suptitle(title)
    return figure


def allocation(
    tables: Mapping[str, pd.DataFrame],
    *,
    title: str,
    references: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """ADMM Figure 3: nonzero weights (log₁₀) and bits of each layer, a bar a network.

    ``tables`` maps a network's label to its ``layers.csv``, or any table with the columns
    ``name``, ``kept`` and ``bits``. ``references`` holds, for the same labels, what each bar is
    compared with (such as a uniform allocation), drawn as a black line across the bar. All tables
    hold the same layers. Of more than eight layers the two panels stand one over the other.
    """
    layers = max(map(len, tables.values()))
    many = layers > 8
    long = max(len(name) for table in tables.values() for name in table["name"]) > 8
    if many:
        size = (max(10, 1.5 + 0.22 * layers), 6.6)
        figure, axes = plt.subplots(2, 1, figsize=size, sharex=True)
    else:
        figure, axes = plt.subplots(1, 2, figsize=(10, 4.3 if long else 3.6))
    line = 1.2 if many else 1.8
    width = 0.8 / len(tables)
    for i, (label, table) in enumerate(tables.items()):
        place = np.arange(len(table)) + (i - (len(tables) - 1) / 2) * width
        for axis, heights in zip(axes, _heights(table), strict=True):
            axis.bar(place, heights, width * 0.94, label=label)
        if references is not None:
            for axis, heights in zip(axes, _heights(references[label]), strict=True):
                look = {"color": "black", "lw": line, "label": f"_{label}, uniform"}
                axis.hlines(heights, place - width / 2, place + width / 2, **look)
    for axis, label in zip(axes, ("nonzero weights, log₁₀", "bits a nonzero weight"), strict=True):
        if references is not None:
            axis.plot([], [], color="black", lw=line, label="uniform, same size")
        axis.set(ylabel=label, xlabel="" if many and axis is axes[0] else "layer")
        look = {"rotation": 90, "fontsize": 8} if many or long else {}
        axis.set_xticks(np.arange(len(table)), table["name"], **look)
        axis.margins(x=0.01 if many else 0.05)
        axis.grid(axis="x", visible=False)
    handles, labels = axes[0].get_legend_handles_labels()
    columns = min(3, len(labels))
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=columns)
    figure.suptitle(title)
    return figure


def layer_history(history: pd.DataFrame, names: list[str], *, title: str) -> Figure:
    """Nonzero weights and bits of each layer after each epoch, from a run of ADMM."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
    for i, name in enumerate(names):
        look = {"label": name, "linestyle": STYLES[i % len(STYLES)]}
        axes[0].plot(history["epoch"], history[f"{name}.kept"], **look)
        axes[1].plot(history["epoch"], history[f"{name}.bits"], drawstyle="steps-mid", **look)
    axes[0].set(xlabel="epoch", ylabel="nonzero weights", yscale="log")
    plain_numbers(axes[0].yaxis)
    axes[1].set(xlabel="epoch", ylabel="bits a nonzero weight")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=min(8, len(names)))
    figure.suptitle(title)
    return figure


def rates(table: pd.DataFrame, *, title: str) -> Figure:
    """Accuracy drop (points) against nominal compression rate: ours, and what the papers report.

    ``table`` is :func:`lib.workbook.report.table_3`'s. A bar is the 95 % interval of
    :func:`lib.workbook.report.interval`; the papers state none. Ours crowd at a few rates: each has
    a colour, and its name in the legend.
    """
    figure, axis = plt.subplots(figsize=(7.6, 4.6))
    reported, ours = (table[table["source"] == source] for source in ("reported", "ours"))
    axis.plot(
        reported["rate"],
        reported["drop_points"],
        marker="s",
        fillstyle="none",
        linestyle="none",
        color="0.3",
        label="reported in the paper",
    )
    for i, row in enumerate(reported.to_dict("records")):
        axis.annotate(
            row["method"],
            (row["rate"], row["drop_points"]),
            xytext=(6, 6) if i % 2 == 0 else (6, -13),
            textcoords="offset points",
            fontsize=8,
        )
    for i, row in enumerate(ours.to_dict("records")):
        drop = row["drop_points"]
        axis.errorbar(
            # of two at one rate the second is drawn 1.5 % beside it, to tell their bars apart
            row["rate"] * 1.015 ** int((ours["rate"].iloc[:i] == row["rate"]).sum()),
            drop,
            yerr=[[drop - row["drop_low"]], [row["drop_high"] - drop]],
            marker=MARKERS[i % 8],
            color=f"C{i % 7}",
            capsize=3,
            linestyle="none",
            label=row["method"],
        )
    axis.axhline(0, color="0.5", linewidth=0.8)
    axis.set(xscale="log", xlabel="nominal compression rate", ylabel="accuracy drop (points)")
    plain_numbers(axis.xaxis)
    axis.margins(x=0.2, y=0.2)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    axis.set_title(f"{title}; bars: 95 % interval" if len(ours) else title)
    return figure


def rates_by_network(table: pd.DataFrame, *, panels: Mapping[str, str], title: str) -> Figure:
    """ADMM Table 4 drawn: accuracy drop (points) against compression rate, a panel a data set.

    ``table`` is :func:`lib.workbook.report.table_4`'s; the rate is its ``paper_rate``. ``panels``
    maps a data set of the column ``data`` to what its panel is called. A colour is a network, a
    marker a mode. Ours are full, with the 95 % interval of :func:`lib.workbook.report.interval`;
    reported ones are hollow. Epochs (dense + compression) are noted where our rows differ in them.
    """
    markers = {"joint": "o", "prune": "s", "quantize": "^"}
    modes = {"joint": "joint", "prune": "pruning only", "quantize": "quantization only"}
    colors = {name: f"C{i}" for i, name in enumerate(table["network"].unique())}
    schedules = len(table[["dense_epochs", "epochs"]].dropna().drop_duplicates())
    limits = (1, 4 * table["paper_rate"].max())
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 4.4 * len(panels), 4.2), sharex=True, squeeze=False
    )
    for axis, (name, heading) in zip(axes[0], panels.items(), strict=True):
        for row in table[table["data"] == name].to_dict("records"):
            ours = row["source"] == "ours"
            rate, drop = row["paper_rate"], row["drop_points"]
            bars = [[drop - row["drop_low"]], [row["drop_high"] - drop]] if ours else None
            axis.errorbar(
                rate,
                drop,
                yerr=bars,
                marker=markers[row["mode"]],
                fillstyle="full" if ours else "none",
                color=colors[row["network"]],
                markersize=7,
                capsize=3,
                linestyle="none",
                label=f"_{row['network']}, {row['method']}, {modes[row['mode']]}",
            )
            note = "" if row["method"].startswith("ADMM") else row["method"]
            if ours and schedules > 1:
                note = f"{row['dense_epochs']:.0f} + {row['epochs']:.0f} epochs"
            place = {"xytext": (7, 5), "textcoords": "offset points", "fontsize": 8}
            axis.annotate(note, (rate, drop), **place)
        axis.axhline(0, color="0.5", linewidth=0.8)
        axis.set(xscale="log", xlabel="compression rate, as the budget counts it", xlim=limits)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.xaxis.set_minor_formatter("")
        axis.margins(y=0.2)
        axis.set_title(heading, fontsize=10)
    axes[0, 0].set_ylabel("accuracy drop (points)")
    handles = [plt.Line2D([], [], marker="D", linestyle="none", color=c) for c in colors.values()]
    handles += [
        plt.Line2D([], [], marker=markers[mode], fillstyle="none", linestyle="none", color="0.3")
        for mode in modes
    ]
    sources = {"reported in the paper": "none", "this workbook, 95 % interval": "full"}
    handles += [
        plt.Line2D([], [], marker="o", fillstyle=fill, linestyle="none", color="0.3")
        for fill in sources.values()
    ]
    labels = [*colors, *modes.values(), *sources]
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(title)
    return figure


def file_parts(table: pd.DataFrame, *, title: str) -> Figure:
    """Bytes of a compressed file by what they hold, a stacked bar a row of ``table``.

    The index labels the bars; each column, in bytes, is one part
    (:func:`lib.workbook.report.file_parts`).
    """
    figure, axis = plt.subplots(figsize=(7.2, 0.55 * len(table) + 1.9))
    left = np.zeros(len(table))
    hatches = ("", "///", "...", "xxx", "|||")
    for column, hatch in zip(table, hatches, strict=False):
        axis.barh(
            np.arange(len(table)),
            table[column],
            0.62,
            left=left,
            label=column,
            hatch=hatch,
            edgecolor="white",
            linewidth=0.5,
        )
        left += table[column].to_numpy()
    for i, total in enumerate(left):
        axis.text(total, i, f" {total:,.0f}", va="center", fontsize=9)
    axis.set_yticks(np.arange(len(table)), table.index)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)
    axis.set(xlabel="bytes")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=len(labels))
    figure.suptitle(title)
    return figure


def number_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str
) -> Figure:
    """Which value of a codebook each weight goes to: a row a codebook, weights above, levels below.

    ``lines`` maps a row's label to (weights, levels); equal weights are stacked.
    """
    figure, axes = plt.subplots(
        len(lines), 1, figsize=(8, 1.3 * len(lines) + 0.9), sharex=True, squeeze=False
    )
    for axis, (label, (weights, levels)) in zip(axes[:, 0], lines.items(), strict=True):
        weights, levels = np.sort(np.asarray(weights)), np.sort(np.asarray(levels))
        nearest = np.abs(weights[:, None] - levels).argmin(1)
        for i, level in enumerate(levels):
            color = "0.45" if level == 0 else f"C{(levels[:i] != 0).sum()}"
            mine = weights[nearest == i]
            for weight in np.unique(mine):
                axis.plot([weight, level], [1, 0], color=color, linewidth=1)
                stack = 1 + 0.22 * np.arange((mine == weight).sum())
                axis.plot(np.full(len(stack), weight), stack, "o", color=color, markersize=5)
            axis.plot(level, 0, "s", color=color, markersize=8)
            axis.annotate(
                f"{level:.3g}",
                (level, 0),
                xytext=(0, -14),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=color,
            )
        axis.set_title(label, fontsize=10, loc="left")
        axis.set(ylim=(-0.75, 1.9), yticks=[0, 1], yticklabels=["codebook", "weights"])
        axis.tick_params(left=False)
        axis.spines["left"].set_visible(False)
        axis.grid(visible=False)
    axes[-1, 0].set_xlabel("value")
    figure.suptitle(title)
    return figure


def error_curves(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, log: bool = True, title: str
) -> Figure:
    """Quantization error against bits; the line is the lower convex hull, choices off it hollow.

    ``panels`` maps a panel's title to its curves, a curve's label to the errors at 1, 2, … bits.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels) + 0.8, 3.8), sharey=True, squeeze=False
    )
    for axis, (heading, curves) in zip(axes[0], panels.items(), strict=True):
        for i, (label, errors) in enumerate(curves.items()):
            errors, bits = np.asarray(errors), np.arange(1, len(errors) + 1)
            on = on_hull(errors)
            between = np.linspace(1, len(errors), 40 * len(errors))  # hulls bend on a log scale
            style = {"marker": "osD^v"[i % 5], "color": f"C{i}", "linestyle": "none"}
            axis.plot(between, np.interp(between, bits[on], errors[on]), color=f"C{i}", lw=1)
            axis.plot(bits[on], errors[on], label=label, **style)
            axis.plot(bits[~on], errors[~on], fillstyle="none", markersize=9, **style)
        axis.set(xlabel="bits a weight", yscale="log" if log else "linear", xticks=bits)
        axis.set_title(heading, fontsize=10)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("quantization error / Σ weights²")
    figure.suptitle(title)
    return figure


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
    figure, axes = plt.subplots(
        len(layers), 1, figsize=(7, 1.15 * len(layers) + 1.2), sharex=True, squeeze=False
    )
    worth = {name: np.square(w.ravel(), dtype=float) / b for name, (w, b) in layers.items()}
    cut, step = np.log10(threshold), 1 / 14
    top = np.log10(max(ratio.max() for ratio in worth.values()))
    # the threshold is an edge of the bins; four decades below it the axis ends
    right = cut + step * np.arange(np.ceil((top - cut) / step) + 1)
    left = cut - step * np.arange(56, 0, -1)
    for axis, (name, ratio) in zip(axes[:, 0], worth.items(), strict=True):
        for edges, chosen, label, color in (
            (np.r_[left, cut], ratio < threshold, "removed", "0.7"),
            (right, ratio >= threshold, "kept", "C0"),
        ):
            counts, _ = np.histogram(np.log10(np.maximum(ratio[chosen], 1e-300)), edges)
            axis.bar(edges[:-1], counts, step, align="edge", color=color, label=label)
        axis.axvline(cut, color="C1", linewidth=1.2)
        kept, bits = (ratio >= threshold).sum(), layers[name][1]
        text = f"{name}, {bits} bits\n{kept:,} of {len(ratio):,} kept"
        axis.text(0.01, 0.95, text, transform=axis.transAxes, va="top", fontsize=8)
        axis.set(yscale="log", ylabel="weights")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=2)
    axes[-1, 0].set_xlabel("log₁₀ of w²/b, what a weight is worth per bit")
    figure.suptitle(title)
    return figure


def costs(table: pd.DataFrame, *, title: str) -> Figure:
    """Time against size, a line a method. ``table``: ``weights``, ``method``, ``seconds``."""
    figure, axis = plt.subplots()
    for i, (method, rows) in enumerate(table.groupby("method", sort=False)):
        axis.plot(rows["weights"], rows["seconds"], "osD^v"[i % 5] + "-", label=method)
    axis.set(xscale="log", yscale="log", xlabel="weights", ylabel="seconds")
    axis.legend(fontsize=8)
    axis.set_title(title)
    return figure


def ladder(table: pd.DataFrame, *, title: str) -> Figure:
    """Images a second, a bar a step, each with its ratio to the bar above.

    ``table``: ``step``, ``images_per_second``, ``times_before``.
    """
    figure, axis = plt.subplots(figsize=(7.6, 0.42 * len(table) + 1.4))
    places = np.arange(len(table))
    axis.barh(places, table["images_per_second"], 0.62)
    for place, speed, ratio in zip(
        places, table["images_per_second"], table["times_before"], strict=True
    ):
        note = f" {speed:,.0f}" + ("" if np.isnan(ratio) else f"  ({ratio:.2f}×)")
        axis.text(speed, place, note, va="center", fontsize=9)
    axis.set_yticks(places, table["step"])
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.25)
    axis.set(xlabel="training images a second")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_title(title)
    return figure


def _heights(table: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    return np.log10(table["kept"].clip(lower=1)), table["bits"]


def plain_numbers(axis: Axis) -> None:
    """Numbers instead of powers of ten on a logarithmic axis, at 1, 2 and 5 of each decade."""
    axis.set_major_locator(plt.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axis.set_minor_formatter("")
