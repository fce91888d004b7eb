"""How w and θ met: tables from histories and networks whose numbers are known."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from lib.workbook import report

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
    (row,) = report.lc.meetings({"one": HISTORY}).to_dict("records")
    assert row == pytest.approx(
        {
            "run": "one",
            "mu_first": 0.1,
            "mu": 0.3,
            "mse_first": 1e-3,
            "mse": 1e-6,
            "loss": 0.2,
            "compressed_loss": 0.25,
            "added": 0.05,
            "accuracy": 96.0,
            "compressed_accuracy": 95.0,
        }
    )


def test_printed_rounds_and_keeps_the_order():
    printed = report.lc.printed(report.lc.meetings({"b": HISTORY, "a": HISTORY}))
    assert list(printed["run"]) == ["b", "a"]
    assert printed.iloc[0].drop("run").tolist() == [
        "0.1",
        "0.3",
        "1.0e-03",
        "1.0e-06",
        "0.2000",
        "0.2500",
        "96.00",
        "95.00",
    ]


def run(*layers):
    model = nn.Sequential(*(nn.Linear(len(w), 1) for w in layers))
    for part, w in zip(model, layers, strict=True):
        part.weight.data = torch.tensor([w])
    return SimpleNamespace(model=lambda: model)


def test_what_is_left_of_the_first_c_step():
    parent = run([3.0, 0.1], [-4.0, 0.5])  # two stay: 3 and −4
    unmoved = report.lc.as_pruned_at_first(run([3.0, 0.0], [-4.0, 0.0]), parent)
    assert unmoved == {"same": 1.0, "moved": 0.0}
    exchanged = report.lc.as_pruned_at_first(run([0.0, 0.0], [-4.0, 4.0]), parent)
    assert exchanged == pytest.approx({"same": 0.5, "moved": 1.0})  # √(3² + 4²) of 5


def test_committed_meetings_say_how_to_get_them(results):
    assert "make reproduce DATASET=mnist" in report.lc.committed_meetings()
    assert report.lc.finished_meetings("mnist") == {}


def test_committed_meetings_are_the_finished_ones(monkeypatch):
    found = [[SimpleNamespace(history=HISTORY)], []]
    monkeypatch.setattr(report.tables, "finished", lambda e, most: found.pop(0) if found else [])
    text = report.lc.committed_meetings()
    assert "augmented Lagrangian" in text
    assert "95.00" in text
    heading, _, *rows = text.splitlines()
    assert heading.endswith("on MNIST")
    assert len(rows) == 1
