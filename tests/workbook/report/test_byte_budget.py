"""Files of a size: rows of the curve are means of their runs, and say what was asked for."""

import math

import pytest

from lib.workbook import experiments, report
from tests.workbook.report.made import run


def fake(size, error):
    known = {"file_bytes": size, "nominal_rate": 1_000}
    return run(1 - error, dense=0.99, control=0.995, **known)


def test_a_row_is_the_mean_over_seeds():
    found = {3_000: [fake(2_990, 0.007), fake(3_000, 0.009)], 1_500: [fake(1_499, 0.015)]}
    table = report.byte_budget.curve(found)
    known = {"asked": [1_500, 3_000], "file": [1_499, 2_995], "error": [1.5, 0.8], "n": [1, 2]}
    known |= {"dense_error": [1, 1], "error_sd": [math.nan, math.sqrt(0.02)]}
    for name, column in known.items():
        assert table[name].tolist() == pytest.approx(column, nan_ok=True), name
    printed = report.shown(table, report.byte_budget.CURVE, spread=True)
    assert printed["error, %"].tolist() == ["1.50", "0.80 ± 0.14"]


def test_rows_without_runs_are_left_out(finished):
    assert report.byte_budget.nominal("mnist").empty


def test_beside_a_published_file_stands_our_largest_that_is_no_larger():
    found = {1_000: [fake(998, 0.02)], 1_600: [fake(1_600, 0.001)]}
    found |= {3_000: [fake(2_990, 0.005), fake(3_000, 0.006)]}
    assert report.byte_budget.beside_published(report.byte_budget.curve(found)).splitlines() == [
        "MIRACLE, 3,030 bytes: 0.69 %; ours, 2,995 bytes: 0.55 ± 0.07 % (n = 2), 0.14 points less",
        "MIRACLE, 1,520 bytes: 0.96 %; ours, 998 bytes: 2.00 % (n = 1), 1.04 points more",
        "Published files with a lower error than ours: 1 of 2.",
    ]
    larger = report.byte_budget.curve({5_000: [fake(4_990, 0.01)]})
    assert "ours" not in report.byte_budget.beside_published(larger)


def test_every_size_of_the_catalogue_is_a_budget_in_bytes():
    crop = {experiments.byte_budget.SHIFT}
    for dataset in experiments.byte_budget.SIZES:
        entries = [entry.experiment for entry in experiments.catalogue(dataset)]
        for size, row in experiments.byte_budget.curve(dataset).items():
            assert (row.budget, row.budget_in) == (size, "bytes")
            limits = [dict(stage.options).get("file_bytes") for stage in row.stages]
            assert limits == [size, None, size]
            # the control is trained on by the same schedule, on images shifted alike
            assert row.control.parent == row.parent == experiments.byte_budget.start(dataset)
            assert row.control.epochs == row.epochs
            assert {stage.schedule.crop for stage in row.control.stages} == crop
            assert row in entries
