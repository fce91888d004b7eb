"""How w and θ met: tables from histories and networks whose numbers are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from lib.workbook import experiments, report
from tests.workbook.report.made import run

HISTORY = pd.DataFrame(
    {
        "epoch": [1, 2],
        "mu": [0.1, 0.3],
        "mse": [1e-3, 1e-6],
        "loss": [0.1, 0.2],
        "compressed_loss": [2.0, 0.25],
        "test_accuracy": [0.97, 0.96],
        "compressed_test_accuracy": [0.3, 0.95],
    }
)


def test_a_row_is_how_a_run_ended():
    table = report.lc.convergence({"b": HISTORY, "a": HISTORY})
    row = table.iloc[0].to_dict()
    first = {"run": "b", "mu_first": 0.1, "mse_first": 1e-3}
    last = {"mu": 0.3, "mse": 1e-6, "loss": 0.2, "compressed_loss": 0.25, "added": 0.05}
    assert row == pytest.approx(first | last | {"accuracy": 96, "compressed_accuracy": 95})
    shown = report.shown(table, report.lc.CONVERGENCE)
    assert list(shown["run"]) == ["b", "a"]
    assert shown["last"].tolist() == ["1.0e-06"] * 2


def network(*layers):
    model = nn.Sequential(*(nn.Linear(len(w), 1) for w in layers))
    for part, w in zip(model, layers, strict=True):
        part.weight.data = torch.tensor([w])
    return SimpleNamespace(model=lambda: model)


def test_what_is_left_of_the_first_c_step():
    parent = network([3.0, 0.1], [-4.0, 0.5])  # two stay: 3 and −4
    unmoved = report.lc.as_pruned_at_first(network([3.0, 0.0], [-4.0, 0.0]), parent)
    assert unmoved == {"same": 1.0, "moved": 0.0}
    exchanged = report.lc.as_pruned_at_first(network([0.0, 0.0], [-4.0, 4.0]), parent)
    assert exchanged == pytest.approx({"same": 0.5, "moved": 1.0})  # √(3² + 4²) of 5


def test_committed_meetings_are_the_finished_ones(finished):
    first, *_ = experiments.lc.meetings("mnist").values()
    finished[first.slug] = [run(history=HISTORY)]
    heading, _, row = report.committed("meetings").splitlines()
    assert heading.endswith("on MNIST")
    assert "augmented Lagrangian" in row
    assert "95.00" in row


# --------------------------------------------------------------------- figure of results


def point(accuracy, amount=0.05, kept=0.05, **known):
    options = {"amount": amount, "cost": "l0-constraint"}
    known |= {"options": options, "kept_fraction": kept, "dense": 0.98, "control": 0.99}
    return run(accuracy, method="lc", **known)


def test_the_curve_is_means_over_seeds_and_drops_what_is_not_there():
    points = [[point(0.97), point(0.95)], []]
    (row,) = report.lc.results_curve({"l0-constraint": points}).to_dict("records")
    known = {"kept_percent": 5, "error": 4, "error_sd": np.sqrt(2), "control_error": 1}
    known |= {"amount": 0.05, "n": 2}
    assert {name: row[name] for name in known} == pytest.approx(known)


def test_layer_shares_are_percentages_by_layer():
    table = report.lc.layer_shares({"a": point(0.9)})
    assert table["a"].to_dict() == {"fc1": 5.0, "fc2": 40.0}


def test_the_least_is_lost_share_by_share():
    curves = {
        "l0-constraint": [[point(0.97)], [point(0.90, amount=0.01)]],
        "magnitude": [[point(0.96)], []],
        "gradual": [[], [point(0.95, amount=0.01)]],
        "l1-penalty": [[point(0.99)]],  # is not told a share
    }
    assert report.lc.least(curves).splitlines() == [
        "1.0% kept: gradual leads with 95.00 %, 5.00 points (n = 1) before l0-constraint.",
        "5.0% kept: l0-constraint leads with 97.00 %, 1.00 points (n = 1) before magnitude.",
    ]


def test_over_the_control_are_points_that_keep_enough():
    curves = {
        "magnitude": [
            [point(accuracy, kept, kept)]
            for accuracy, kept in ((0.99, 0.2), (0.97, 0.1), (0.5, 0.09))
        ],
        "l1-penalty": [[point(0.995, kept=0.5)]],
    }
    made = report.lc.over_control(report.lc.results_curve(curves), kept=10)
    assert made["curve"].tolist() == ["magnitude", "l1-penalty"]
    assert made["points"].tolist() == [2, 1]
    assert made["least"].tolist() == pytest.approx([0, -0.5])
    assert made["most"].tolist() == pytest.approx([2, -0.5])


def test_claims_are_paired_against_the_control_and_signed(finished):
    lc = [point(0.985), point(0.983, seed=1)]
    finished["lenet300-tanh-mnist-lc-l0-constraint-0.05-"] = lc
    finished["lenet300-tanh-mnist-magnitude-0.05-"] = [point(0.97, seed=1)]
    low, high = stats.ttest_1samp([0.5, 0.7], 0).confidence_interval(0.95)
    line = (
        f"5.0% kept: LC-ℓ0 1.60 %; +0.60 [{low:+.2f}, {high:+.2f}] points over seeds against the "
        "dense network trained on (n = 2); -1.30 points against one-shot pruning (n = 1)"
    )
    assert report.committed("claims").strip() == line
