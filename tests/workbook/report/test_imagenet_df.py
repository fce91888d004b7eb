"""DF's Tables 4 and 6 as they are read, and where MACs can go, against networks that were built."""

import pandas as pd
import pytest
import torch

from lib import accounting, networks, structured
from lib.workbook import experiments, plots, report
from tests.workbook.report.made import run

#: The smallest images that all of them read.
SHAPE, CLASSES = (3, 32, 32), 3


@pytest.fixture
def mobile():
    torch.manual_seed(0)
    return networks.build("mobilenetv2", classes=CLASSES).eval()


def test_misprinted_deltas_are_marked():
    marked = []
    for network, rows in (("resnet50", 35), ("resnet18", 17), ("mobilenetv2", 10)):
        made = report.shown(report.imagenet_df.reported(network), report.imagenet_df.TABLE)
        assert len(made) == rows
        misprints = made[made["Δ as printed"].str.endswith("*")]
        names = ["algorithm", "Δ as printed", "accuracy − dense"]
        marked += misprints[names].itertuples(index=False, name=None)
    assert marked == [
        ("Stable", "-1.47*", "-1.49"),
        ("LeGR", "-0.20*", "-0.40"),
        ("DF", "+0.20*", "+0.36"),
    ]


def test_what_is_not_stated_is_a_dash():
    made = report.shown(report.imagenet_df.reported("resnet50"), report.imagenet_df.TABLE)
    (hinge,) = made[made["algorithm"] == "Hinge"].to_dict("records")
    dashes = {name for name, cell in hinge.items() if cell == "–"}
    assert dashes >= {"dense, %", "Δ as printed", "accuracy − dense"}
    assert len(dashes) == 5


def test_the_best_of_others_save_as_much():
    rows = [("A", 70.0, 1.0, 40), ("B", 69.0, 2.0, 50), ("C", 68.0, -1.0, 60)]
    rows += [("DF", 69.5, 0.5, 50), ("DF", 67.0, 0.0, 70)]
    paper = pd.DataFrame(rows, columns=["algorithm", "accuracy", "gain", "reduction"])
    made = report.imagenet_df.best_of_others(paper)
    assert made["reduction"].tolist() == [50, 70]
    assert made.iloc[0][["others_accuracy", "others_gain"]].tolist() == [69, 2]  # A saves less
    assert made.iloc[1][["others_accuracy", "others_gain"]].isna().all()


@pytest.mark.parametrize(
    ("name", "halves"),
    # the decompositions of a whole ResNet-18 would take half a minute
    [("resnet18-imagenet", ["filters"]), ("mobilenetv2", ["filters", "ranks", "both"])],
)
def test_reach_is_what_can_be_built(name, halves):
    """Against networks of one filter, of rank 1, and of both, counted by PyTorch."""
    torch.manual_seed(0)
    dense = networks.build(name, classes=CLASSES).eval()
    found = report.imagenet_df.reach(name, classes=CLASSES, input_shape=SHAPE)
    assert found["macs"] == accounting.macs(dense, SHAPE)
    for what in halves:
        built = dense
        if what != "ranks":
            one = {layer: [0] for layer in structured.prunable(dense)}
            built = structured.remove_filters(built, one, input_shape=SHAPE)
        if what != "filters":
            costs = structured.layers(built, input_shape=SHAPE)
            ranks = {layer: 1 for layer, cost in costs.items() if cost.groups == 1}
            built = structured.factor(built, ranks, input_shape=SHAPE)
        left = 100 * accounting.macs(built, SHAPE) / found["macs"]
        assert found[what] == pytest.approx(left), what


def test_break_even():
    layer = structured.Layer("a", 32, 192, (1, 1), (7, 7), 7, 1)
    assert report.imagenet_df.break_even(layer) == pytest.approx(6 / 7)
    # half of the filters have left: rank 32 of 32 × 96
    assert report.imagenet_df.break_even(layer, filters=96) == pytest.approx(3 / 4)
    square = structured.Layer("b", 64, 64, (3, 3), (7, 7), 7, 1)
    assert report.imagenet_df.break_even(square) == pytest.approx(0.9)
    assert report.imagenet_df.break_even(square, filters=32) == pytest.approx(18 / 19)


def test_layers_say_what_went_and_add_up(mobile, monkeypatch):
    monkeypatch.setattr(experiments.df, "input_shape", lambda dataset, network: SHAPE)
    went = {"features.2.conv.0.0": range(10)}
    pruned = structured.remove_filters(mobile, went, input_shape=SHAPE)
    built = structured.factor(pruned, {"features.18.0": 5}, input_shape=SHAPE)
    one = run(network="mobilenetv2", dense_model=lambda: mobile, model=lambda: built)
    table = report.imagenet_df.layers(one).set_index("layer")
    assert table["macs"].sum() == accounting.macs(mobile, SHAPE)
    assert table["built"].sum() == accounting.macs(built, SHAPE)
    assert table["rank"].dropna().to_dict() == {"features.18.0": 5}
    went = table[table["filters"] != table["left"]]
    # the depthwise layer loses its channels with the filters before it
    assert went["left"].to_dict() == {"features.2.conv.0.0": 10, "features.2.conv.1.0": 10}
    assert went["kind"].tolist() == ["1×1", "depthwise"]
    (axis,) = plots.imagenet_df.layers({"built": table.reset_index()}, title="").axes
    assert sum(len(bars) for bars in axis.containers) == 2 * len(table)


def test_figure_3b_draws_every_row_that_states_it():
    paper = report.imagenet_df.reported("resnet50")
    axes = plots.imagenet_df.figure_3b(paper, title="").axes
    lines = [[x for x in axis.lines if x.get_marker() != "None"] for axis in axes]
    drawn = [sum(len(line.get_xdata()) for line in of_axis) for of_axis in lines]
    assert drawn == [35, 34]  # Hinge states no dense network
    named = [[text.get_text() for text in axis.texts].count("Hinge") for axis in axes]
    assert named == [1, 0]


def test_ours_wait_beside_what_is_reported(finished):
    made = report.imagenet_df.beside()
    assert made["asked"].tolist() == [44, 50, 66, 78, 50, 62, 70, 35, 55]
    accuracies = [77.20, 76.93, 76.13, 74.10, 71.24, 70.82, 70.15, 72.16, 71.63]
    assert made["reported"].tolist() == accuracies
    assert made["reported_gain"].iloc[7] == 0.36  # printed as 0.20
    assert made["accuracy"].isna().all()
    assert report.imagenet_df.measured_curve() is None
    said = report.committed("df-imagenet")
    assert said.count("–") == 9 * len(report.df.MEASURED.split())
    # nine rows, eight halves, three starts, three controls
    assert "23 runs missing" in said
