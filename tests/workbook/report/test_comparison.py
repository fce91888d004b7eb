"""Tables of LC's figure and of the head to head, of runs whose numbers are known."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from lib.workbook import experiments, plots, report

ADMM = report.comparison.NAMES["admm"]
KNOWN = {"nominal_rate": 500.0, "entropy_rate": 100.0, "file_bytes": 10_000}


def run(accuracy, *, dense=0.98, control=0.99, kept=0.05, amount=0.05, **result):
    stages = [{"method": "lc", "options": [["amount", amount], ["cost", "l0-constraint"]]}]
    layers = pd.DataFrame({"name": ["fc1", "fc2"], "weights": [100, 10], "kept": [5, 4]})
    losses = {"test_loss": 0.1, "train_loss": 0.05, "epochs": 60}
    losses |= {"train_seconds": 1800.0, "parent": None}
    return SimpleNamespace(
        experiment={"stages": stages},
        computed_in=result.pop("computed_in", "float32"),
        correct=np.ones(10, dtype=bool),
        layers=layers,
        result=KNOWN
        | losses
        | {"accuracy": accuracy, "dense_accuracy": dense, "control_accuracy": control}
        | {"kept_fraction": kept}
        | result,
    )


@pytest.fixture
def finished(monkeypatch):
    """What ``report.finished`` returns: slug's beginning → runs."""
    there = {}

    def lookup(experiment, *, most=100):
        found = [runs for start, runs in there.items() if experiment.slug.startswith(start)]
        return found[0][:most] if found else []

    monkeypatch.setattr(report.tables, "finished", lookup)
    return there


def test_the_curve_is_means_over_seeds_and_drops_what_is_not_there():
    points = [[run(0.97), run(0.95)], []]
    table = report.comparison.results_curve({"l0-constraint": points})
    (row,) = table.to_dict("records")
    assert row["kept_percent"] == pytest.approx(5)
    assert row["error"] == pytest.approx(4)
    assert row["error_sd"] == pytest.approx(np.sqrt(2))
    assert row["control_error"] == pytest.approx(1)
    assert (row["amount"], row["n"]) == (0.05, 2)


def test_layer_shares_are_percentages_by_layer():
    table = report.comparison.layer_shares({"a": run(0.9)})
    assert table["a"].to_dict() == {"fc1": 5.0, "fc2": 40.0}


def test_head_to_head_counts_search_and_tuning(finished):
    finished["lenet300-digits-admm-50x"] = [run(0.97), run(0.96)]
    finished["lenet300-digits-black-box-50x"] = [run(0.95)]
    for trial in experiments.comparison.trials()["admm"][:2]:  # the others are not there
        finished[trial.slug] = [run(0.9)]
    table = report.comparison.head_to_head("digits", "lenet300").set_index("method")
    admm, searched = table.loc[ADMM], table.loc["black-box search (TPE)"]
    assert admm["accuracy"] == pytest.approx(96.5)
    assert admm["drop"] == pytest.approx(1.5)
    assert admm["drop_sd"] == pytest.approx(np.sqrt(0.5))
    assert admm["control_drop"] == pytest.approx(2.5)
    assert admm["search_epochs"] == 0
    assert admm["trials"] == 2
    assert admm["tuning_epochs"] == 2 * sum(experiments.comparison.EPOCHS["lenet300", "mnist"])
    tries = experiments.comparison.SEARCH["lenet300", "digits"]
    assert searched["search_epochs"] == tries["trials"] * tries["epochs"]
    assert searched["tuning_epochs"] == 0
    assert (admm["asked"], admm["n"], searched["n"]) == (50, 2, 1)
    assert (admm["hours"], admm["tuning_hours"]) == (0.5, 1.0)
    assert admm["verdict"] == "undecided"


def test_rows_that_computed_in_different_numbers_say_so(finished):
    half = {"computed_in": "bfloat16"}
    finished["lenet300-digits-admm-50x"] = [run(0.97, **half), run(0.96)]
    finished["lenet300-digits-lc-50x"] = [run(0.95, **half)]
    finished["lenet300-digits-gradual-50x"] = [run(0.95, **half)]
    table = report.comparison.head_to_head("digits", "lenet300").set_index("method")
    both = {
        ADMM: "bfloat16 and float32",
        "LC-ℓ0": "bfloat16",
        "gradual pruning": "bfloat16",
    }
    assert table["computed_in"].to_dict() == both
    shown = report.comparison.printed(table.reset_index())
    assert shown["computed in"].tolist() == list(both.values())
    finished["lenet300-digits-admm-50x"] = [run(0.97, **half)]
    table = report.comparison.head_to_head("digits", "lenet300")
    assert "computed_in" not in table
    assert "computed in" not in report.comparison.printed(table)


def seeds(*accuracies):
    return dict(enumerate(accuracies))


def test_a_method_wins_where_a_paired_test_tells_it_from_all_others():
    """The seeds differ by more than the methods do; paired, the differences are clear."""
    found = {
        500: {
            ADMM: seeds(97.5, 98.0, 98.5),
            "LC-ℓ0": seeds(98.01, 98.5, 99.0),
            "gradual pruning": seeds(96.51, 97.0, 97.4),
        }
    }
    points, more = [0.51, 0.5, 0.5], [1.5, 1.5, 1.6]
    test = stats.ttest_1samp(points, 0)
    low, high = test.confidence_interval(0.95)
    p, other = test.pvalue, stats.ttest_1samp(more, 0).pvalue
    assert p < other < 0.05
    said = f"0.50 [{low:.2f}, {high:.2f}] points (n = 3, p = {2 * p:.2g})"
    assert report.comparison.verdict(found) == (
        f"500×: LC-ℓ0 wins with 98.50 %, {said} before {ADMM}; ADMM is number 2 of 3, {said} "
        "behind."
    )


def test_a_method_only_leads_where_one_other_may_be_as_good():
    found = {
        500: {
            ADMM: seeds(97.0, 98.0, 98.9),
            "LC-ℓ0": seeds(97.2, 97.9, 99.2),
            "gradual pruning": seeds(90.0, 91.0, 92.0),
        }
    }
    assert report.comparison.verdict(found).startswith("500×: LC-ℓ0 leads with 98.10 %, 0.13 [-")


def test_with_one_seed_or_two_nothing_wins():
    one = {500: {ADMM: seeds(99.0), "LC-ℓ0": seeds(98.5)}}
    assert report.comparison.verdict(one) == (
        f"500×: {ADMM} leads with 99.00 %, 0.50 points (n = 1) before LC-ℓ0."
    )
    two = {500: {ADMM: seeds(99.0, 99.01), "LC-ℓ0": seeds(90.0, 90.01)}}
    assert f"{ADMM} leads" in report.comparison.verdict(two)
    alone = {500: {"LC-ℓ0": seeds(98.5)}}
    assert report.comparison.verdict(alone) == "500×: LC-ℓ0 leads with 98.50 %."


def test_differences_are_over_common_seeds():
    found = {50: {ADMM: {0: 90.0, 1: 95.0, 2: 99.0}, "LC-ℓ0": {1: 94.0, 3: 10.0}}}
    assert report.comparison.verdict(found) == (
        f"50×: {ADMM} leads with 94.67 %, 1.00 points (n = 1) before LC-ℓ0."
    )


def test_what_the_allocation_is_worth_is_paired():
    ways = report.comparison.WAYS
    found = {
        ways["magnitude"]: seeds(97.0, 98.0),
        ways["threshold"]: seeds(97.5, 98.5, 99.0),
        ways["scratch"]: {5: 98.0},
    }
    (line,) = report.comparison.worth(found).splitlines()
    assert line.endswith("-0.50 [-0.50, -0.50] points (n = 2)")


def test_the_least_is_lost_share_by_share():
    curves = {
        "l0-constraint": [[run(0.97, amount=0.05, seed=0)], [run(0.90, amount=0.01, seed=0)]],
        "magnitude": [[run(0.96, amount=0.05, seed=0)], []],
        "gradual": [[], [run(0.95, amount=0.01, seed=0)]],
        "l1-penalty": [[run(0.99, amount=0.05, seed=0)]],  # is not told a share
    }
    assert report.comparison.least(curves).splitlines() == [
        "1.0% kept: gradual leads with 95.00 %, 5.00 points (n = 1) before l0-constraint.",
        "5.0% kept: l0-constraint leads with 97.00 %, 1.00 points (n = 1) before magnitude.",
    ]


def test_over_the_control_are_points_that_keep_enough():
    curves = {
        "magnitude": [[run(0.99, kept=0.2)], [run(0.97, kept=0.1)], [run(0.5, kept=0.09)]],
        "l1-penalty": [[run(0.995, kept=0.5)]],
    }
    made = report.comparison.over_control(report.comparison.results_curve(curves), kept=10)
    assert made["curve"].tolist() == ["magnitude", "l1-penalty"]
    assert made["points"].tolist() == [2, 1]
    assert made["least"].tolist() == pytest.approx([0, -0.5])
    assert made["most"].tolist() == pytest.approx([2, -0.5])


def test_overlap_is_with_as_many_of_the_largest(tmp_path, monkeypatch):
    before, after = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
    with torch.no_grad():
        before.weight.copy_(torch.tensor([[4.0, -3.0, 2.0, 1.0]]))
        after.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, -1.0]]))
    folder = tmp_path / "compressed"
    made = SimpleNamespace(folder=folder, result={"parent": "dense"}, model=lambda: after)
    there = {tmp_path / "dense": SimpleNamespace(model=lambda: before)}
    monkeypatch.setattr(report.comparison, "read", there.__getitem__)
    monkeypatch.setattr(report.comparison, "compressible", lambda model: {"fc": model.weight})
    (row,) = report.comparison.overlap(made).to_dict("records")
    assert row == {"among the largest, %": 50, "by chance, %": 50}


def test_edges_are_the_least_and_the_largest_that_was_tried(finished):
    settings = experiments.lc.TRIALS["gradual"]
    tried = experiments.lc.trials()["gradual"]
    for experiment, accuracy in zip(tried, (0.9, 0.8, 0.902, 0.8, 0.899, 0.8), strict=True):
        finished[experiment.slug] = [trial(accuracy)]
    # √(0.902·0.098/5,000) is 0.42 points
    assert report.comparison.edges({"gradual": tried}, {"gradual": settings}) == (
        "gradual pruning: chosen at an edge of what was tried: none; 2 of the 5 others within one "
        "standard error, 0.42 points"
    )
    finished[tried[0].slug] = [trial(0.95)]
    said = report.comparison.edges({"gradual": tried}, {"gradual": settings})
    assert "tried: until 0.25; 0 of the 5 others" in said
    del finished[tried[0].slug]
    assert report.comparison.edges({"gradual": tried}, {"gradual": settings}) == ""


def test_claims_are_paired_against_the_control_and_signed(finished):
    finished["lenet300-tanh-mnist-lc-l0-constraint-0.05-"] = [
        run(0.985, seed=0),
        run(0.983, seed=1),
    ]
    finished["lenet300-tanh-mnist-magnitude-0.05-"] = [run(0.97, seed=1)]
    low, high = stats.ttest_1samp([0.5, 0.7], 0).confidence_interval(0.95)
    line = (
        f"5.0% kept: LC-ℓ0 1.60 %; +0.60 [{low:+.2f}, {high:+.2f}] points over seeds against the "
        "dense network trained on (n = 2); -1.30 points against one-shot pruning (n = 1)"
    )
    assert report.comparison.committed_claims().strip() == line


def test_trials_mark_the_first_of_the_best(finished):
    lc = experiments.lc.trials()["lc"]
    for experiment, accuracy in zip(lc, (0.9, 0.95, 0.95, 0.8, 0.7, 0.6), strict=True):
        finished[experiment.slug] = [trial(accuracy)]
    table = report.comparison.tried({"lc": lc}, {"lc": experiments.lc.TRIALS["lc"]})
    assert table["chosen"].tolist() == [False, True, False, False, False, False]
    assert table["accuracy"].iloc[0] == pytest.approx(90)
    assert table["knobs"].iloc[0] == "mu 0.0003, rise 300"


def trial(accuracy, images=1_000, swapped=0):
    """Right on the first images; ``swapped`` of them on the last instead, one by one."""
    correct = np.arange(images) < round(accuracy * images)
    if swapped:
        correct[:swapped], correct[-swapped:] = False, True
    return replaced(run(None, held_out_accuracy=accuracy), correct=correct)


def replaced(namespace, **fields):
    return SimpleNamespace(**vars(namespace) | fields)


@pytest.mark.parametrize(
    ("wider", "chosen"),
    [
        ([trial(0.95)], 1),
        ([trial(0.951, swapped=10), trial(0.94)], 1),  # ahead by 0.1, standard error 0.46
        ([trial(0.951, swapped=10), trial(0.96, swapped=5)], 7),  # ahead by 1.0, 0.44
        ([trial(0.96), trial(0.97)], 7),
    ],
)
def test_beyond_an_edge_a_setting_has_to_be_ahead_by_a_standard_error(finished, wider, chosen):
    lc = experiments.comparison.trials()["lc"]
    six = (0.9, 0.95, 0.95, 0.8, 0.7, 0.6)
    for experiment, one in zip(lc, [*map(trial, six), *wider], strict=False):
        finished[experiment.slug] = [one]
    table = report.comparison.tried({"lc": lc}, {"lc": experiments.comparison.tried()["lc"]})
    assert table["chosen"].tolist() == [i == chosen for i in range(len(table))]
    assert len(table) == 6 + len(wider)
    last = table.iloc[-1]
    best, other = trial(0.95).correct, wider[-1].correct
    b, c = int((other & ~best).sum()), int((best & ~other).sum())
    assert last["ahead"] == pytest.approx((b - c) / 10)
    expected = 100 * np.sqrt(b + c - (b - c) ** 2 / 1_000) / 1_000
    assert last["ahead_se"] == pytest.approx(expected)


def test_where_no_run_is_there_a_line_says_so(finished):
    for text in (
        report.comparison.committed_curve(),
        report.comparison.committed_claims(),
        report.comparison.committed_tenth(),
        report.comparison.committed_least(),
        report.comparison.committed_overlap(),
        report.comparison.committed_head_to_head(),
        report.comparison.committed_quantized(),
        report.comparison.committed_trials(),
        report.comparison.committed_earned(),
    ):
        assert text.startswith("No run of ")
        assert "make reproduce DATASET=mnist" in text


def test_figures_draw_every_method_and_point(finished):
    for method in experiments.comparison.METHODS:
        finished[f"lenet300-digits-{method}-"] = [run(0.97), run(0.96)]
    table = report.comparison.head_to_head("digits", "lenet300")
    figure = plots.comparison.head_to_head(table, title="")
    assert len(figure.legends[0].get_texts()) == len(experiments.comparison.METHODS)
    for axis in figure.axes[2:]:  # at one rate: a point a method
        assert len(axis.containers) == len(experiments.comparison.METHODS)
    drawn = report.comparison.results_curve({"a": [[run(0.97)]], "b": [[run(0.9)], [run(0.8)]]})
    left, right = plots.comparison.results_curve(drawn, title="").axes
    assert [len(c.lines[0].get_xdata()) for c in left.containers] == [1, 2]
    assert right.get_ylabel() == "loss (nats an image)"
    finished["lenet300-digits-allocation-random"] = [run(0.9), run(0.8)]
    (axis,) = plots.comparison.earned(report.comparison.earned("digits"), title="").axes
    assert len(axis.get_yticks()) == 4  # ADMM, random, and the two of the head to head
    plt.close("all")


@pytest.mark.parametrize(
    "part", [experiments.comparison, experiments.lc], ids=["comparison", "curve"]
)
def test_knobs_are_the_best_of_the_committed_trials(part, monkeypatch):
    monkeypatch.delenv("WORKBOOK_RESULTS", raising=False)
    settings = (
        experiments.comparison.tried() if part is experiments.comparison else experiments.lc.TRIALS
    )
    table = report.comparison.tried(part.trials(), settings)
    for method, rows in table.groupby("method"):
        (key,) = (key for key in part.TRIALS if report.comparison.NAMES[key] == method)
        assert len(rows) == len(settings[key]), f"trials of {method} are missing"
        chosen = int(np.flatnonzero(rows["chosen"])[0])
        assert settings[key][chosen] == part.TUNED[key]
