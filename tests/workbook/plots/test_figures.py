"""Every figure function draws made tables and says what its axes are; what is drawn is theirs."""

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.workbook import plots, report

W, LAYERS, EPOCHS = np.linspace(-1, 1, 40), ["conv", "fc"], np.arange(1, 4)
PATH = np.array([[1.0, 0.8], [0.2, 0.8], [0.1, 0.1]])
ALLOCATION = {"a": pd.DataFrame({"name": LAYERS, "kept": [100, 0], "bits": [3, 2]})}
UNIFORM = {"a": pd.DataFrame({"name": LAYERS, "kept": [50, 50], "bits": [4, 4]})}
#: One table for all that want rows.
NUMBERS = (
    "accuracy_sd amount asked control_accuracy control_error dense_accuracy dense_epochs drop_low "
    "entropy_rate epochs error error_sd file gain gain_sd kept_percent loss n paper_rate rate "
    "reduction search_epochs seconds train_loss tuning_epochs weights"
)
ROWS = pd.DataFrame(1.0, range(3), NUMBERS.split()).assign(
    source=["reported", "ours", "ours"],
    method=["x", "y", "y"],
    **{"what": list("xyz"), "curve": list("xxy"), "network": "x", "mode": "joint", "data": "d"},
    **{"accuracy": [98.0, 97, 96], "drop_points": [0.5, 1, 2], "drop_high": 2.5},
)
DF = ROWS.assign(method=list(report.df.NAMES.values())[:3])
HISTORY = pd.DataFrame({"epoch": EPOCHS, "loss": 1 / EPOCHS, "compressed_loss": 2.0, "mse": 0.1})
HISTORY = HISTORY.assign(mu=2.0, macs_share=0.5, filters_kept=0.5, mean_threshold=0.1)
HISTORY = HISTORY.assign(**dict.fromkeys((f"{n}.{k}" for n in LAYERS for k in ("kept", "bits")), 4))
STEPS = pd.DataFrame({"step": ["a"], "images_per_second": 9.0, "times_before": np.nan})
BITS = pd.DataFrame({"name": LAYERS, "value_bits": 8, "position_bits": 8, "codebook_bits": 8})
HOURS = pd.DataFrame({"table": "1", "part": report.imagenet_costs.PARTS, "gpu_hours": 3.0})
ASKED = pd.DataFrame({"gpu": [3e3, 2e4]}, index=["a", "b"])
MACS = pd.DataFrame({"macs": [2e6, 1e6], "built": 1e6, "kind": "1×1", "rank": [np.nan, 2]})
PARTS = pd.DataFrame({"header": [10.0, 20], "values": [300.0, 50]}, index=["x", "y"])

CALLS = {
    "admm.plane": ((np.hypot, {"a": PATH}), {"allowed": PATH, "limits": (-1, 2)}),
    "admm.number_lines": (({"a": ([1, 2, 2], [0, 2])},), {}),
    "admm.error_curves": (({"a": {"b": [1, 0.5, 0.4]}},), {}),
    "admm.kept_by_layer": (({"a": (W, 3)},), {"threshold": 0.1}),
    "admm.convergence": (({0.5: HISTORY, "1 → 2": HISTORY},), {}),
    "admm.allocation": ((ALLOCATION,), {"references": UNIFORM}),
    "admm.layer_history": ((HISTORY, LAYERS), {}),
    "admm.rates": ((ROWS,), {}),
    "admm.rates_by_network": ((ROWS,), {"panels": {"d": "data"}}),
    "base.images": (({"a": np.ones((2, 3, 3))},), {}),
    "benchmarks.costs": ((ROWS,), {}),
    "benchmarks.ladder": ((STEPS,), {}),
    "coders.file_parts": ((PARTS,), {}),
    "coders.layers": (({"archive": BITS},), {}),
    "coders.mask": ((np.eye(3, 4),), {}),
    "coders.coders": ((pd.DataFrame({"label": LAYERS, "archive": 9, "entropy": 8}),), {}),
    "coders.files": (({"a": ROWS},), {"dense": 1.0}),
    "comparison.results_curve": ((ROWS,), {}),
    "comparison.head_to_head": ((ROWS.assign(rate=[10, 20, 30], entropy_rate=[8, 9, 10]),), {}),
    "comparison.layer_shares": (({"a": pd.DataFrame({"x": [1.0, 10]}, index=LAYERS)},), {}),
    "comparison.earned": ((ROWS,), {}),
    "df.curve": (({"a": (DF, None)},), {}),
    "df.accuracies": ((ROWS,), {"by": "method", "paper": ROWS}),
    "df.parts": ((pd.DataFrame({"asked": [50], "filters": [30.0], "ranks": [20.0]}),), {}),
    "df.choosing": (({"a": HISTORY},), {"budgets": [50]}),
    "imagenet_costs.costs": ((HOURS, ASKED), {"images_a_core": 300}),
    "imagenet_df.figure_3b": ((report.imagenet_df.reported("resnet50"), DF), {}),
    "imagenet_df.layers": (({"a": MACS},), {}),
    "lc.projections": (({"a": ([PATH], PATH, PATH / 2)},), {"limit": 2}),
    "lc.maps": ((W, {"a": {"b": W / 2}}), {}),
    "lc.magnitudes": ((W, {"a": W / 2}), {"largest": 5}),
    "lc.codebooks": ((W, {"a": np.sign(W)}), {}),
    "lc.spectra": (({"a": ([3.0, 1.0], 2.0, 1)},), {}),
    "lc.tradeoffs": (({"a": {"b": (W, W), "c": (W, W)}},), {"xlabels": ("x",), "ylabel": "y"}),
    "lc.trained": ((ROWS, {"a": ("x", "y")}), {}),
    "lc.paths": ((np.hypot, {"a": (PATH, PATH)}), {"limits": ((-1, 2),) * 2}),
    "lc.lines": (({"a": (EPOCHS, EPOCHS)},), {"xlabel": "x", "ylabel": "y"}),
    "lc.meeting": (({"a": HISTORY},), {}),
}


def draw(name):
    module, function = name.split(".")
    given, options = CALLS[name]
    return getattr(getattr(plots, module), function)(*given, title="the title", **options)


def drawn(name, kind):
    """What a figure draws of a kind: a place and its other end a row."""
    table = plots.figure_data.of(draw(name))
    return table[table["kind"] == kind][["x", "y", "x_end", "y_end"]].to_numpy()


@pytest.fixture(autouse=True)
def style():
    with plt.style.context(plots.STYLE):
        yield


def test_every_figure_is_tried():
    assert set(CALLS) == {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in filter(inspect.ismodule, vars(plots).values())
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and "title" in inspect.signature(function).parameters
        if function is not plots.base.finish
    }


@pytest.mark.parametrize("name", CALLS)
def test_a_figure_says_what_it_shows(name):
    figure = draw(name)
    figure.draw_without_rendering()
    titles = [text.get_text() for text in figure.texts]
    assert any("the title" in text for text in titles + [axes.get_title() for axes in figure.axes])
    axes = [axes for axes in figure.axes if axes.axison]
    for axis in ("xaxis", "yaxis") if axes else ():
        labels = [getattr(one, axis).get_label_text() for one in axes]
        names = [getattr(one, axis).get_majorticklabels() for one in axes]
        assert any(labels) or all(label.get_text().isalpha() for label in names[0])


def test_what_is_drawn_are_the_numbers_of_the_table():
    np.testing.assert_allclose(drawn("admm.rates", "points")[:, 1], ROWS["drop_points"])
    np.testing.assert_allclose(drawn("admm.rates", "segment")[:, [1, 3]], [[1, 2.5]] * 2)
    bars, lines = drawn("admm.allocation", "bar"), drawn("admm.allocation", "segment")
    np.testing.assert_allclose(bars[:, 3], [2, 0, 3, 2])
    np.testing.assert_allclose(lines[:, 1], [*np.log10([50, 50]), 4, 4])
    parts = drawn("coders.file_parts", "bar")
    np.testing.assert_allclose(parts[:, [0, 2]], [[0, 10], [0, 20], [10, 310], [20, 70]])
    np.testing.assert_allclose(drawn("df.parts", "bar")[:, [1, 3]], [[0, 30], [30, 50]])


def test_two_rows_of_one_name_both_stand_in_the_legend():
    names = [text.get_text() for text in draw("admm.rates").legends[0].get_texts()]
    assert names == ["reported in the paper", "y", "y"]


def test_a_method_looks_the_same_whoever_stands_beside_it():
    alone = plots.df.curve({"a": (DF[-1:], None)}, title="").axes[0].containers[0].lines[0]
    beside = draw("df.curve").axes[0].containers[2].lines[0]
    assert (alone.get_marker(), alone.get_color()) == (beside.get_marker(), beside.get_color())
