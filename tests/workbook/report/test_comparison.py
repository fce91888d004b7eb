"""Tables of the head to head and of what the allocation earns, of runs whose numbers are known."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from lib.workbook import experiments, report
from tests.workbook.report import made

ADMM = report.comparison.NAMES["admm"]
run = partial(made.run, dense=0.98, control=0.99)


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
    shown = report.comparison.head_to_head_shown(table.reset_index())
    assert shown["computed in"].tolist() == list(both.values())
    finished["lenet300-digits-admm-50x"] = [run(0.97, **half)]
    table = report.comparison.head_to_head("digits", "lenet300")
    assert "computed_in" not in table
    assert "computed in" not in report.comparison.head_to_head_shown(table)


def seeds(*accuracies):
    return pd.Series(accuracies)


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
    found = {50: {ADMM: seeds(90.0, 95.0, 99.0), "LC-ℓ0": pd.Series({1: 94.0, 3: 10.0})}}
    assert report.comparison.verdict(found) == (
        f"50×: {ADMM} leads with 94.67 %, 1.00 points (n = 1) before LC-ℓ0."
    )


def test_what_the_allocation_is_worth_is_paired():
    ways = report.comparison.WAYS
    found = {
        ways["magnitude"]: seeds(97.0, 98.0),
        ways["threshold"]: seeds(97.5, 98.5, 99.0),
        ways["scratch"]: pd.Series({5: 98.0}),
    }
    (line,) = report.comparison.choice_gains(found).splitlines()
    assert line.endswith("-0.50 [-0.50, -0.50] points (n = 2)")


def test_overlap_is_with_as_many_of_the_largest(tmp_path, monkeypatch):
    before, after = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
    with torch.no_grad():
        before.weight.copy_(torch.tensor([[4.0, -3.0, 2.0, 1.0]]))
        after.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, -1.0]]))
    folder = tmp_path / "compressed"
    compressed = SimpleNamespace(folder=folder, result={"parent": "dense"}, model=lambda: after)
    there = {tmp_path / "dense": SimpleNamespace(model=lambda: before)}
    monkeypatch.setattr(report.comparison, "read", there.__getitem__)
    monkeypatch.setattr(report.comparison, "compressible", lambda model: {"fc": model.weight})
    (row,) = report.comparison.overlap(compressed).to_dict("records")
    assert row == {"among the largest, %": 50, "by chance, %": 50}
