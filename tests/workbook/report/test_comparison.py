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
    epochs = sum(experiments.comparison.EPOCHS["lenet300", "mnist"])
    known = {
        **{"accuracy": 96.5, "drop": 1.5, "drop_sd": np.sqrt(0.5), "control_drop": 2.5, "n": 2},
        **{"search_epochs": 0, "trials": 2, "tuning_epochs": 2 * epochs, "asked": 50},
        **{"hours": 0.5, "tuning_hours": 1.0},
    }
    admm, searched = table.loc[ADMM], table.loc["black-box search (TPE)"]
    assert admm[list(known)].to_dict() == pytest.approx(known)
    assert admm["verdict"] == "undecided"
    tries = experiments.comparison.SEARCH["lenet300", "digits"]
    assert searched["search_epochs"] == tries["trials"] * tries["epochs"]
    assert (searched["tuning_epochs"], searched["n"]) == (0, 1)


def test_rows_that_computed_in_different_numbers_say_so(finished):
    half = {"computed_in": "bfloat16"}
    finished["lenet300-digits-admm-50x"] = [run(0.97, **half), run(0.96)]
    finished["lenet300-digits-lc-50x"] = [run(0.95, **half)]
    table = report.comparison.head_to_head("digits", "lenet300")
    both = ["bfloat16 and float32", "bfloat16"]
    assert table["computed_in"].tolist() == both
    assert report.comparison.head_to_head_shown(table)["computed in"].tolist() == both
    finished["lenet300-digits-admm-50x"] = [run(0.97, **half)]
    table = report.comparison.head_to_head("digits", "lenet300")
    assert "computed_in" not in table
    assert "computed in" not in report.comparison.head_to_head_shown(table)


def seeds(*accuracies):
    return pd.Series(accuracies)


def test_a_method_wins_where_a_paired_test_tells_it_from_all_others():
    """The seeds differ by more than the methods do; paired, the differences are clear."""
    found = {
        ADMM: seeds(97.5, 98.0, 98.5),
        "LC-ℓ0": seeds(98.01, 98.5, 99.0),
        "gradual pruning": seeds(96.51, 97.0, 97.4),
    }
    test = stats.ttest_1samp([0.51, 0.5, 0.5], 0)
    low, high = test.confidence_interval(0.95)
    assert test.pvalue < stats.ttest_1samp([1.5, 1.5, 1.6], 0).pvalue < 0.05
    said = f"0.50 [{low:.2f}, {high:.2f}] points (n = 3, p = {2 * test.pvalue:.2g})"
    assert report.comparison.verdict({500: found}) == (
        f"500×: LC-ℓ0 wins with 98.50 %, {said} before {ADMM}; ADMM is number 2 of 3, {said} "
        "behind."
    )
    found[ADMM] = seeds(97.9, 98.9, 98.9)  # may be as good
    assert report.comparison.verdict({500: found}).startswith("500×: ADMM, rising ρ (ours) leads")


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
