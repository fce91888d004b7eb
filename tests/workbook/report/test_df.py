"""DF's tables and figures, of runs whose numbers are known and of networks that were built."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from lib import accounting, networks, structured
from lib.workbook import experiments, plots, report
from tests.workbook.report.made import run

SHAPE = (1, 16, 16)
NAMES = report.df.NAMES


@pytest.fixture(autouse=True)
def neighbours(monkeypatch):
    """A run's dense network and control get their first images right, as the run does."""

    def lost(run, against):
        accuracy = run.result[f"{against}_accuracy"]
        right = np.arange(len(run.correct)) < len(run.correct) * accuracy
        return right.astype(np.int8) - run.correct.astype(np.int8)

    monkeypatch.setattr(report.rows, "_images_lost", lost)


@pytest.fixture
def dense():
    torch.manual_seed(0)
    return networks.build("resnet8", channels=1).eval()


def test_gains_are_paired_seed_by_seed():
    runs = [run(0.93, dense=0.90, control=0.92), run(0.95, dense=0.94, control=0.95)]
    table = report.df.curve({("hybrid", 0.5): runs, ("l1", 0.6): [run(0.9, macs=390)]})
    row, alone = table.to_dict("records")
    assert (row["method"], row["asked"], row["n"], row["epochs"]) == (NAMES["hybrid"], 50, 2, 25)
    numbers = {
        **{"reduction": 50, "accuracy": 94, "gain": (3 + 1) / 2, "control_gain": (1 + 0) / 2},
        "control_gain_sd": np.sqrt(0.5),
    }
    assert {name: row[name] for name in numbers} == pytest.approx(numbers)
    assert alone["reduction"] == pytest.approx(61)  # of what was built
    assert np.isnan(alone["control_gain_sd"])


def test_a_network_without_parent_or_control_has_no_gain():
    row = report.rows.summary([run(0.9, dense=None, control=None)], report.df.COLUMNS)
    assert np.isnan([row["gain"], row["control_gain"]]).all()
    shown = report.columns.text(pd.DataFrame([row]), report.df.SHOWN)
    assert "–" not in shown  # such columns are left out


def test_settings_are_the_papers_and_what_the_catalogue_has():
    table = report.df_settings.settings()
    assert table.loc["β", ["CIFAR-10", "ImageNet (ILSVRC2012)"]].tolist() == ["4", "8"]
    assert table.loc["learning rate of the dense network"].tolist()[:3] == ["0.01", "0.01", "–"]
    assert (table.loc["λ"] == ["1"] * 3 + ["10"] * 5).all()
    same = table.loc[["μ₀", "α", "β", "C, in τ = C/σ₁"]].iloc[:, 3:]
    assert (same == "same").all(axis=None)
    choose, tune = experiments.df.df("cifar10", reduction=0.5, **experiments.df.cpu()).stages
    cpu = table["ours, CPU"]
    assert cpu["epochs of fine-tuning"] == str(tune.epochs)
    assert cpu["epochs of choosing, E"] == str(choose.epochs)
    assert cpu["learning rate of fine-tuning"] == f"{tune.schedule.lr:g}"


def test_the_lead_is_over_the_better_half_and_signed():
    found = {("hybrid", 0.5): 0.95, ("filters", 0.5): 0.94, ("ranks", 0.5): 0.90}
    found |= {("hybrid", 0.75): 0.80, ("filters", 0.75): 0.82, ("ranks", 0.75): 0.85}
    found |= {("hybrid", 0.6): 0.99, ("l1", 0.6): 0.5}  # its halves are missing
    found = {key: [run(accuracy)] for key, accuracy in found.items()}
    found["hybrid", 0.5].append(run(0.5, seed=1))  # a seed that the halves have not
    leads = report.df.lead(found).set_index("asked")
    assert leads["points"].to_dict() == pytest.approx({50: 1, 75: -5})
    assert leads["half"].to_dict() == {50: NAMES["filters"], 75: NAMES["ranks"]}
    said = report.df.verdict(found).splitlines()
    assert said[:3] == [
        "50 %: +1.00 [-0.38, +2.38] points over images on DF, filters alone (n = 1)",
        "75 %: -5.00 [-8.02, -1.98] points over images on DF, ranks alone (n = 1)",
        "mean: -2.00 points",
    ]
    assert said[3].startswith("50 %: -19.50 [")  # of two seeds: 3.0 and -42.0
    assert said[3].endswith("points over seeds on the dense network (n = 2)")
    assert "75 %: -12.00 [-16.50, -7.50] points over images on the dense network tr" in said[-1]
    assert ", -10.00 [-14.16, -5.84] points over images on the dense network (n = 1)" in said[-1]


def test_a_gain_is_paired_over_the_seeds_that_both_have():
    mine = [run(0.95), run(0.93, seed=1), run(0.5, seed=2)]
    other = [run(0.94, seed=1), run(0.92)]
    gained = report.rows.gain(mine, other)
    assert (gained.mean, gained.n, gained.over) == (pytest.approx(1.0), 2, "seeds")
    expected = stats.ttest_1samp([3, -1], 0).confidence_interval(0.95)
    assert (gained.low, gained.high) == pytest.approx(tuple(expected))


def test_reported_gains_are_worked_out_anew():
    paper = report.df.reported("df_table3", network="resnet56")
    chip = paper[(paper["algorithm"] == "CHIP") & (paper["reduction"] == 47)]
    assert chip["gain"].item() == pytest.approx(0.90)  # printed as 0.75


@pytest.mark.parametrize("scheme", [1, 2])
def test_what_filters_and_ranks_bring(dense, scheme):
    """Against the two networks, really built and counted by PyTorch."""
    names = structured.prunable(dense)
    keep = {name: torch.arange(5 + 3 * i) for i, name in enumerate(names)}
    ranks = {name: 3 for name, layer in dense.named_modules() if isinstance(layer, nn.Conv2d)}
    pruned = structured.remove_filters(dense, keep, input_shape=SHAPE)
    built = structured.factor(pruned, ranks, scheme=scheme, input_shape=SHAPE)
    whole, left = (accounting.macs(model, SHAPE) for model in (pruned, built))
    assert left < whole < accounting.macs(dense, SHAPE)
    assert report.df.whole_macs(dense, built, input_shape=SHAPE) == whole
    spent = {"macs": left, "dense_macs": accounting.macs(dense, SHAPE)}
    one = run(0.9, **spent)
    one.model, one.dense_model = (lambda: built), (lambda: dense)
    parts = report.df.parts(one)
    assert parts["filters"] == pytest.approx(100 * (1 - whole / spent["dense_macs"]))
    assert sum(parts.values()) == pytest.approx(100 * (1 - left / spent["dense_macs"]))


def test_where_nothing_left_nothing_is_brought(dense):
    built = structured.factor(dense, {"stage3.0.conv2": 3}, input_shape=SHAPE)
    for one in (dense, built):  # of ranks alone what is whole is the dense network
        whole = report.df.whole_macs(dense, one, input_shape=SHAPE)
        assert whole == accounting.macs(dense, SHAPE)


def test_latencies_are_milliseconds_of_every_batch(dense):
    table = report.df.latencies({"a": dense}, input_shape=SHAPE, batches=(1, 8), seconds=0.01)
    assert (list(table.index), list(table)) == (["a"], ["batch 1", "batch 8"])
    assert ((table > 0) & (table < 1000)).all(axis=None)


def test_landing_is_of_the_last_epoch_that_chose():
    landed = {"B_d": 48, "B": 46, "missed": -2, "built": 47, "pull": 2 * 10 * 0.02}
    assert report.df.landing(run(0.9, macs=470)) == pytest.approx(landed)
    table = report.df.landings({0.5: [run(0.9)], 0.6: [run(0.8)]}, ["asked"])
    assert table["accuracy"].tolist() == pytest.approx([90, 80])


def test_sources_of_the_gain_are_paired_and_count_all_epochs():
    df = [run(0.95, dense=0.90, control=0.96), run(0.93, dense=0.92, control=0.92, seed=1)]
    scratch = [run(0.91, dense=None, control=None, epochs=45)]
    table = report.df.gain_sources({"hybrid": df, "from-scratch": scratch})
    assert table["epochs"].tolist() == [20, 45, 45, 45]
    assert table["gain"].tolist() == pytest.approx([0, 3, 3, 1])
    assert table["df_gain"].tolist() == pytest.approx([-3, 0, 0, -4])
    assert table["n"].tolist() == [2, 2, 2, 1]
    assert table["reduction"].tolist() == pytest.approx([0, 0, 50, 50])


def test_sources_have_the_weak_start_first_and_its_own_dense_network():
    found = {
        "hybrid": [run(0.95, dense=0.94, control=0.96)],
        "weak": [run(0.93, dense=0.90, control=0.925, lr=0.01)],
        "from-scratch": [run(0.91, dense=None, control=None, epochs=45)],
    }
    table = report.df.gain_sources(found)
    assert table["start"].dropna().tolist() == [0.01] * 3 + [0.1] * 3
    assert table["accuracy"].tolist() == pytest.approx([90, 92.5, 93, 94, 96, 95, 91])
    assert table["gain"].tolist() == pytest.approx([0, 2.5, 3, 0, 2, 1, -3])
    assert table["df_gain"].tolist() == pytest.approx([-5, -2.5, -2, -1, 1, 0, -4])
    assert np.isnan(table["start"].iloc[-1])
    # alone it has no DF from our start to be compared with
    alone = report.df.gain_sources({"weak": found["weak"]})
    assert alone["gain"].tolist() == pytest.approx([0, 2.5, 3])
    assert alone["df_gain"].isna().all()


def test_a_gain_is_what_epochs_and_what_compression_did():
    ours = [run(0.95, dense=0.94, control=0.96), run(0.93, dense=0.94, control=0.94)]
    weak = [run(0.93, dense=0.90, control=0.925, lr=0.01)]
    made = report.df.differences({"hybrid": ours, "weak": weak})
    assert made["start"].tolist() == [0.01, 0.1]
    assert made["by_epochs"].tolist() == pytest.approx([2.5, 1])
    assert made["by_compression"].tolist() == pytest.approx([0.5, -1])
    assert made["gain"].tolist() == pytest.approx([3, 0])
    said = report.df.gain_verdict({"hybrid": ours, "weak": weak}).splitlines()
    assert said[0] == "start at 0.01: Δ +3.00 points = epochs +2.50, compression +0.50 (n = 1)"
    assert said[2] == (
        "weak start minus ours: dense -4.00 points, Δ +3.00 (epochs +1.50, compression +1.50), "
        "DF -1.00"
    )
    assert len(report.df.gain_verdict({"weak": weak}).splitlines()) == 1


def test_table_5_waits_beside_what_is_reported(finished):
    made = report.df.table_5().set_index(["what", "asked"])
    assert made["reported"].tolist() == [93.87, 93.74, 93.64, 72.12, 71.05]
    assert made["reported_gain"].tolist() == [-0.27, -0.40, -0.50, -0.27, -1.34]
    assert made["accuracy"].isna().all()
    assert report.committed("df-table-5-beside").count("–") == 5 * len(report.df.MEASURED.split())
    finished["resnet56-cifar100-df-hybrid-55pct"] = [run(0.71, dense=0.72, control=0.73)]
    there = report.df.table_5().set_index(["what", "asked"]).loc[("resnet56, CIFAR-100", 55)]
    assert there[["accuracy", "gain", "control_gain"]].tolist() == pytest.approx([71, -1, -2])
    assert report.committed("df-table-5-beside").count("–") == 4 * len(report.df.MEASURED.split())


def test_rates_are_relative_to_the_dense_networks_weights():
    table = report.df.both({"hybrid": [run(0.9)], "both": [run(0.8)]})
    weights = experiments.df.dense_weights("digits", "resnet8")
    assert table["rate"].tolist() == pytest.approx([weights / 50] * 2)
    assert table["own_rate"].tolist() == [2.0, 2.0]
    assert table["what"].tolist() == ["DF", "DF, then ADMM"]


def test_the_grid_has_a_row_a_beta_and_a_column_a_steepness():
    accuracies = {(4.0, 5.0): 0.9, (2.0, 5.0): 0.8, (4.0, 10.0): 0.7}
    grid = report.df.tried({k: [run(None, held_out_accuracy=v)] for k, v in accuracies.items()})
    assert grid.loc[4.0].tolist() == pytest.approx([90, 70])
    assert np.isnan(grid.loc[2.0, 10.0])


def test_what_is_missing_is_named(finished):
    finished["resnet20-cifar10-df-hybrid-50pct"] = [run(0.9, network="resnet20")]
    said = report.committed("df-curve")
    assert said.startswith("resnet20 on CIFAR-10, cpu schedule\n")
    names = said.partition("not there yet: ")[2].split("; ")
    # three reductions of DF and its halves, and five baselines at one, less one
    assert len(names) == 13
    assert "hybrid 0.5" not in names
    assert "hybrid 0.6" in names


def test_what_is_there_on_cifar_10_retires_the_mirrors(finished):
    for percent in (50, 60):
        row = f"resnet20-cifar10-jpeg-df-hybrid-{percent}pct"
        finished[row] = [run(0.8, network="resnet20")]
    (mirror,) = report.places.places(experiments.df.curve)
    assert (mirror.dataset, mirror.length, mirror.missing) == ("cifar10-jpeg", "short", ())
    assert set(mirror.found) == {("hybrid", 0.5), ("hybrid", 0.6)}
    finished["resnet20-cifar10-df-hybrid-50pct"] = [run(0.9, network="resnet20")]
    exact, mirror = report.places.places(experiments.df.curve)
    assert (exact.dataset, exact.length) == ("cifar10", "cpu")
    assert [set(place.found) for place in (exact, mirror)] == [{("hybrid", 0.5)}, {("hybrid", 0.6)}]
    said = report.committed("df-curve")
    assert said.index("resnet20 on CIFAR-10, cpu") < said.index("resnet20 on JPEG mirror")


def test_choosing_leaves_out_what_is_trained_on():
    history = run(0.9).history.assign(epoch=[1, 2, 1], filters_kept=0.5, mean_threshold=0.1)
    axis = plots.df.choosing({"a": history}, budgets=[48], title="").axes[1]
    assert [list(line.get_ydata()) for line in axis.lines] == [pytest.approx([90, 46]), [48, 48]]


def test_what_is_learned_falls_to_what_is_built():
    known = {"stage": [0, 0, 1, 1], "mu": [2, 50, None, None]}
    history = pd.DataFrame(known | {"test_accuracy": [0.1, 0.9, 0.4, 0.8]})
    made = report.df.built_accuracies({"a": run(0.81, history=history)})
    assert made["a"].tolist() == [90, 40, 81]
