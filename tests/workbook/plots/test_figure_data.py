"""A figure's data are read from what was drawn, whoever drew it, and nothing drawn is left out."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from lib.workbook import plots


@pytest.fixture
def axes():
    return plt.subplots()[1]


def rows(axes, kind):
    table = plots.figure_data.of(axes.figure)
    return table[table["kind"] == kind]


def test_points_of_lines_are_what_is_drawn(axes):
    axes.plot([1, 10], [0.5, 0.25], label="one")
    axes.plot([2], [3], "o", label="_two")
    axes.plot([4], [5], "o")
    axes.plot([], [], label="in the legend alone")
    axes.set(xscale="log")
    line = rows(axes, "line")
    assert line["series"].tolist() == ["one", "one"]
    assert line[["x", "y"]].to_numpy().tolist() == [[1, 0.5], [10, 0.25]]
    points = rows(axes, "points")
    assert points["series"].tolist() == ["two", ""]
    assert points[["x", "y"]].to_numpy().tolist() == [[2, 3], [4, 5]]


def test_error_bars_are_segments_once_each(axes):
    axes.errorbar([1, 2], [5, 6], [[1, 2], [3, 0.5]], xerr=0.25, capsize=3, label="ours")
    segments = rows(axes, "segment")
    assert set(segments["series"]) == {"ours"}
    ends = sorted(segments[["x", "y", "x_end", "y_end"]].to_numpy().tolist())
    assert ends == [[0.75, 5, 1.25, 5], [1, 4, 1, 8], [1.75, 6, 2.25, 6], [2, 4, 2, 6.5]]
    assert len(rows(axes, "line")) == 2  # and no caps
    assert rows(axes, "points").empty


def test_bars_with_the_names_below_them(axes):
    axes.bar([0, 1], [3, 4], 0.5, bottom=[0, 1], label="bits")
    axes.set_xticks([0, 1], ["conv1", "fc2"])
    bars = rows(axes, "bar")
    corners = bars[["x", "y", "x_end", "y_end"]].to_numpy().tolist()
    assert corners == [[-0.25, 0, 0.25, 3], [0.75, 1, 1.25, 5]]
    assert set(bars["series"]) == {"bits"}
    assert rows(axes, "x name")[["x", "text"]].to_numpy().tolist() == [[0, "conv1"], [1, "fc2"]]


def test_names_may_be_the_data(axes):
    axes.errorbar([1, 2], ["a", "b"], xerr=0.5, fmt="o")
    assert rows(axes, "points")[["x", "y"]].to_numpy().tolist() == [[1, 0], [2, 1]]
    assert rows(axes, "y name")["text"].tolist() == ["a", "b"]


def test_a_level_has_one_coordinate(axes):
    axes.axhline(0.5, label="dense")
    axes.axvline(3)
    levels = rows(axes, "level")
    assert levels["series"].tolist() == ["dense", ""]
    np.testing.assert_array_equal(levels[["x", "y"]], [[np.nan, 0.5], [3, np.nan]])


def test_texts_with_their_places(axes):
    axes.text(1, 2, "488")
    axes.text(0.1, 0.2, "corner", transform=axes.transAxes)
    axes.annotate("note", (3, 4), xytext=(6, 6), textcoords="offset points")
    axes.annotate("above", (5, 1), xycoords=("data", "axes fraction"))
    axes.annotate("", (7, 8))
    texts = rows(axes, "text")
    assert texts["text"].tolist() == ["488", "corner", "note", "above"]
    places = [[1, 2], [np.nan, np.nan], [3, 4], [5, np.nan]]
    np.testing.assert_array_equal(texts[["x", "y"]], places)


def test_titles_and_axes_are_named_and_panels_counted():
    figure, (left, right) = plt.subplots(1, 2)
    figure.suptitle("whole")
    left.set(title="first", xlabel="epoch", ylabel="loss (nats)")
    right.set_title("(b)", loc="left")
    right.plot([1], [2])
    table = plots.figure_data.of(figure)
    assert list(table.columns) == list(plots.figure_data.COLUMNS)
    assert table[["panel", "title", "kind", "text"]].to_numpy().tolist() == [
        [0, "", "title", "whole"],
        [1, "first", "x label", "epoch"],
        [1, "first", "y label", "loss (nats)"],
        [2, "(b)", "line", ""],
    ]


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda axes: axes.imshow(np.eye(2)), "AxesImage"),
        (lambda axes: axes.contour(np.eye(3)), "QuadContourSet"),
        (lambda axes: axes.pie([1, 2]), "Wedge"),
    ],
)
def test_what_cannot_be_read_is_refused(axes, draw, name):
    draw(axes)
    with pytest.raises(ValueError, match=f"the data of {name} cannot be read"):
        plots.figure_data.of(axes.figure)


def test_numbers_are_written_with_nine_digits(axes, tmp_path):
    axes.plot([1, 2], [1 / 3, 1_234_567_891.2], label="a, b")
    file = tmp_path / "drawn.csv"
    plots.figure_data.save(plots.figure_data.of(axes.figure), file)
    assert file.read_text().splitlines() == [
        "panel,title,kind,series,x,y,x_end,y_end,text",
        '1,,line,"a, b",1,0.333333333,,,',
        '1,,line,"a, b",2,1.23456789e+09,,,',
    ]
