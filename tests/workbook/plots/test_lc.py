"""Figures of LC: what is drawn, read back from the figure."""

import numpy as np
import pandas as pd
import pytest

from lib.workbook import plots


def test_a_jump_is_left_open_and_a_slope_is_not():
    w = np.linspace(-1, 1, 201)
    hard = np.where(np.abs(w) > 0.495, w, 0.0)
    open_ = np.isnan(plots.lc.broken(w, hard, at_once=2.5))
    assert np.abs(w[open_]) == pytest.approx([0.5, 0.49])
    assert not np.isnan(plots.lc.broken(w, 2 * w, at_once=2.5)).any()
    assert hard.sum() == pytest.approx(0)  # what was given is not changed


def test_arrows_only_where_a_point_moves():
    circle = [[1, 0], [0, 1], [-1, 0], [1, 0]]
    panels = {"ball": ([circle], np.array([[2.0, 0.0], [0.5, 0.0]]), [[1.0, 0.0], [0.5, 0.0]])}
    (axis,) = plots.lc.projections(panels, limit=2, title="").axes
    assert [(note.xyann, note.xy) for note in axis.texts] == [((2.0, 0.0), (1.0, 0.0))]
    assert len(axis.patches) == 1  # closed: filled


def test_magnitudes_keep_each_weight_at_its_place():
    after = {"after": np.array([0.1, 0.0, 1.5])}
    figure = plots.lc.magnitudes(np.array([0.1, -3.0, 2.0]), after, largest=2, title="")
    left, right = ([list(line.get_ydata()) for line in axis.lines] for axis in figure.axes)
    assert left == [[3.0, 2.0, 0.1], [0.0, 1.5, 0.1]]
    assert right[1] == [0.0, 1.5]


def test_a_codebooks_line_is_as_high_as_its_share():
    weights, quantized = np.array([0.0, 0.1, 0.9, 1.0]), np.array([0.1, 0.1, 0.1, 0.9])
    figure = plots.lc.codebooks(weights, {"two": quantized}, title="")
    (lines,) = figure.axes[1].collections
    tops = [segment[1] for segment in lines.get_segments()]
    np.testing.assert_allclose(tops, [[0.1, 75], [0.9, 25]])


@pytest.mark.parametrize(("rank", "kept"), [(2, 2), (0, 0), (None, 3)])
def test_a_spectrum_shows_the_rank_chosen(rank, kept):
    figure = plots.lc.spectra({"layer": ([3.0, 2.0, 1.0], 1.5, rank)}, title="")
    dropped, filled, _ = figure.axes[0].lines
    assert len(filled.get_xdata()) == kept
    assert len(dropped.get_xdata()) == 3 - kept


def test_trained_points_carry_their_amounts():
    points = [("x", 0.5, 2), ("x", 0.1, 3), ("y", 0.2, 4), ("z", 0.3, 5)]
    table = pd.DataFrame(points, columns=["curve", "amount", "error"])
    table = table.assign(kept_percent=100 * table["amount"], error_sd=0.1, control_error=1.5)
    figure = plots.lc.trained(table, {"pair": ("x", "y"), "other": ("z",)}, title="")
    texts = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert texts == [["0.1", "0.5", "0.2"], ["0.3"]]


def test_both_losses_share_a_scale():
    history = pd.DataFrame({"epoch": [1, 2], "mu": [0.1, 0.2], "mse": [1e-3, 1e-4]})
    history = history.assign(loss=[0.01, 0.02], compressed_loss=[2.0, 0.5])
    axes = plots.lc.meeting({"one": history}, title="").axes
    low, high = axes[2].get_ylim()
    assert (low, high) == axes[3].get_ylim()
    assert low <= 0.01 < 2 <= high
    np.testing.assert_array_equal(axes[1].lines[0].get_ydata(), history["mse"])


@pytest.mark.parametrize(("high", "plain"), [(50.0, True), (1e9, False)])
def test_plain_numbers_where_decades_are_few(high, plain):
    figure = plots.lc.lines({"a": ([1, 2], [5.0, high])}, xlabel="x", ylabel="y", title="")
    figure.canvas.draw()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert ("10" in labels) == plain


def test_paths_end_where_the_iterates_do():
    w, theta = np.array([[1.0, 0.8], [0.2, 0.8]]), np.array([[1.0, 0.0], [0.0, 0.8]])
    figure = plots.lc.paths(np.hypot, {"a": (w, theta)}, limits=((-1, 2),) * 2, title="")
    ends = [line.get_xydata().tolist() for line in figure.axes[0].lines[-2:]]
    assert ends == [[[0.0, 0.8]], [[0.2, 0.8]]]
