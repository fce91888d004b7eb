"""Table 2: our rows as the paper counts them, and what stands where nothing is measured."""

import pandas as pd
import pytest

from lib.workbook import experiments, report, runs
from tests.workbook.report.made import run


def fake(mode, method, layers):
    """A run of a network of a thousand weights in two layers."""
    table = pd.DataFrame(layers, columns=["weights", "kept", "levels"])
    table = table.assign(name=["a", "b"], bits=[1, 2])
    known = {"network": "mobilenetv1", "mode": mode, "kept_fraction": table["kept"].sum() / 1000}
    accuracies = {"dense": 0.70, "control": 0.71}
    return run(0.66, method=method, layers=table, **accuracies, **known)


@pytest.fixture(autouse=True)
def no_interval(monkeypatch):
    interval = report.statistics.Interval(4.0, 3.0, 5.0, 3.2, 4.8, 1, "images")
    monkeypatch.setattr(report.admm, "interval", lambda found: interval)


def test_a_row_pays_for_its_nonzeros_or_for_every_weight_as_its_mode_says():
    layers = [(800, 100, 2), (200, 200, 4)]
    joint = fake("joint", "admm", layers)
    # three nonzero values and zero in the first layer, four and no zero in the second
    whole = fake("quantize", "admm", [(800, 700, 3), (200, 200, 4)])
    table = report.imagenet.table_2([[joint], [whole]], dataset="imagenet")
    ours = table[table["source"] == "ours"].reset_index(drop=True)
    assert len(table) == len(report.reported("admm_table2")) + 2
    assert ours["paper_rate"].tolist() == [32_000 / (100 + 400), 32_000 / (2 * 800 + 2 * 200)]
    assert ours["mean_bits"].tolist() == [500 / 300, 2.0]
    assert ours["nonzero_percent"].fillna(-1).tolist() == [30.0, -1]
    assert ours["drop_points"].tolist() == pytest.approx([4, 4])
    assert ours["control_drop"].tolist() == pytest.approx([5, 5])
    shown = report.shown(ours, report.imagenet.TABLE_2)
    assert shown["top-1 drop, points"].tolist() == ["4.00"] * 2
    assert shown["rate as in the paper"].tolist() == ["64.0×", "16.0×"]
    assert "top-5 drop" not in shown  # a run does not keep it
    assert "–" not in report.shown(table, report.imagenet.TABLE_2)["rate as in the paper"].tolist()


def test_every_row_of_ours_has_a_name():
    for dataset in experiments.imagenet.EPOCHS:
        for row in experiments.imagenet.table_2(dataset):
            assert (row.stages[0].method, row.mode) in report.imagenet.NAMES


def test_what_is_needed_comes_first_and_once():
    rows = experiments.imagenet.table_2("imagenet")
    needed = report.imagenet.needed(rows)
    names = [each.name for each in needed]
    assert len(names) == len(set(names)) > len(rows)
    for i, each in enumerate(needed):
        assert {other.name for other in each.needs} <= set(names[:i])


def test_where_nothing_is_measured_a_line_says_how_much_is_missing(results, monkeypatch):
    rows = experiments.imagenet.table_2("imagenet")
    count = len(report.imagenet.needed(rows))
    said = report.committed("table-2")
    assert said.startswith(f"Not measured yet. Table 2 on ImageNet (ILSVRC2012): {count} runs")
    assert said.endswith("python -m lib run --missing --dataset imagenet")
    monkeypatch.setattr(runs, "status", lambda experiment, seed: "done")
    assert report.imagenet.missing(rows, what="Table 2") == "Every run of Table 2 is there."


def test_a_start_that_was_measured_stands_beside_what_is_published(monkeypatch):
    def finished(experiment, **options):
        there = experiment.network == "alexnet" and experiment.published
        return [run(0.5655)] if there else []

    monkeypatch.setattr(report.rows, "seeds_of", finished)
    assert report.imagenet.starts(experiments.imagenet.table_2("imagenet")) == [
        "alexnet: 56.52 % published, 56.55 % here"
    ]
