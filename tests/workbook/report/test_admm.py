"""ADMM's tables, from made-up runs whose numbers are known and from real ones."""

import math
import re
import statistics
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib import networks
from lib.layers import compressible
from lib.training import Schedule
from lib.workbook import experiments, report, runs
from lib.workbook.experiments import Stage
from lib.workbook.runs.verify import verify
from tests.workbook.report.made import run

IMAGES = 1000

#: A tenth of the first layer's weights has three bits, a fifth of the second's one.
LAYERS = pd.DataFrame(
    [("a", 1_000, 100, 7, 3), ("b", 4_000, 800, 2, 1)],
    columns=["name", "weights", "kept", "levels", "bits"],
)
KNOWN = {
    **{"network": "lenet5", "method": "admm", "options": {"rho": 0.05, "start_bits": 1}},
    **{"kept_fraction": 900 / 5_000, "nominal_bits": 1_100, "nominal_rate": 32 * 5_000 / 1_100},
    **{"entropy_rate": 500.0, "file_bytes": 4_000},
}


def one(right, **known):
    """A run that gets these images right, or so many of the first."""
    correct = np.arange(IMAGES) < right if isinstance(right, int) else right
    known = KNOWN | {"layers": LAYERS, "correct": correct, "images": IMAGES} | known
    return run(float(correct.mean()), **known)


@pytest.fixture
def compressed(monkeypatch):
    """Makes a compressed run a seed, its parent and control, from what each gets right."""
    there = {}
    monkeypatch.setattr(report.rows, "_neighbour", lambda run, kind: there[run.result[kind]])

    def compressed(*rights, **known):
        found = []
        for seed, (dense, control, right) in enumerate(rights):
            there[f"dense-s{seed}"], there[f"control-s{seed}"] = one(dense), one(control)
            accuracies = {"dense": dense / IMAGES, "control": control / IMAGES}
            made = one(right, parent=f"dense-s{seed}", seed=seed, **accuracies, **known)
            made.result["control"] = f"control-s{seed}"
            found.append(made)
        return found

    return compressed


SEEDS = ((990, 995, 980), (992, 993, 985), (988, 990, 987))
#: The points that each of them loses.
LOSSES = {"dense": [1.0, 0.7, 0.1], "control": [1.5, 0.8, 0.3]}


@pytest.mark.parametrize("against", LOSSES)
def test_drops_and_their_intervals_are_of_paired_differences(compressed, against):
    found, losses = compressed(*SEEDS), LOSSES[against]
    drop = {"dense": "drop", "control": "control_drop"}[against]
    mean, sd = statistics.mean(losses), statistics.stdev(losses)
    made = report.rows.summary(found, f"{drop} {drop}_sd n")
    assert list(made.values()) == pytest.approx([mean, sd, 3])
    alone = report.rows.summary(found[:1], f"{drop} {drop}_sd")
    assert list(alone.values()) == pytest.approx([losses[0], math.nan], nan_ok=True)
    interval = report.interval(found, against=against)
    expected = stats.t.interval(0.95, 2, mean, sd / math.sqrt(3))
    assert (interval.low, interval.high) == pytest.approx(expected)
    assert (interval.over, interval.n) == ("seeds", 3)


def test_a_file_that_was_not_made_leaves_a_blank(compressed):
    found = compressed((990, 990, 980), (990, 990, 980))
    assert report.rows.summary(found, "file_bytes") == {"file_bytes": 4_000}
    found[1].result["file_bytes"] = None
    table = report.table_3([found], dataset="mnist")
    assert math.isnan(table["file_bytes"].iloc[-1])
    assert "file, bytes" not in report.shown(table, report.admm.TABLE_3)  # nor has the paper


def test_the_parts_of_a_file_sum_to_it(trained):
    parts = report.file_parts(trained)
    assert sum(parts.values()) == pytest.approx(trained.result["file_bytes"])
    assert 0 < parts["codebooks"] < parts["values"]
    assert parts["biases"] == pytest.approx(4 * 580, rel=0.2)


def test_the_parts_of_files_name_the_largest(monkeypatch):
    held = {
        900: {"values": 10.0, "positions": 30.0, "biases": 20.0},
        1_100: {"values": 12.0, "positions": 20.0, "biases": 40.0},
    }
    found = [run(nominal_rate=rate, options={"start_bits": 1}) for rate in held]
    monkeypatch.setattr(report.coders, "file_parts", lambda run: held[run.result["nominal_rate"]])
    heading, row = report.coders.file_parts_text([found]).splitlines()
    assert heading.split() == ["row", "values", "positions", "biases", "total", "largest"]
    assert row.split() == ["1,000×,", "from", "1", "bit", "11", "25", "30", "66", "biases"]


def test_an_interval_of_one_pair_is_over_images(compressed):
    interval = report.interval(compressed((1000, 1000, 900)))  # an image is lost with p = 0.1
    spread = 1.96 * 100 * math.sqrt(0.1 * 0.9 / IMAGES)
    assert interval.mean == pytest.approx(10)
    assert (interval.low, interval.high) == pytest.approx((10 - spread, 10 + spread), abs=0.01)
    assert (interval.over, interval.n) == ("images", 1)
    cancel = report.interval(compressed((900, 900, np.arange(IMAGES) >= 100)))
    assert cancel.mean == 0
    assert cancel.low == pytest.approx(-cancel.high)
    assert cancel.low < 0


@pytest.mark.parametrize("table", [report.table_3, report.table_4])
def test_a_table_has_the_papers_rows_and_ours(compressed, table):
    found = compressed((990, 991, 989), (992, 993, 990), network="resnet20")
    made = table([found, []], dataset="digits")  # an experiment without runs has no row
    paper, ours = made[made["source"] == "reported"], made[made["source"] == "ours"]
    assert "ADMM (Yang et al.)" in set(paper["method"])
    (row,) = ours.to_dict("records")
    numbers = {
        **{"rate": 160_000 / 1_100, "nonzero_percent": 18, "mean_bits": 1_100 / 900, "n": 2},
        **{"drop_points": 0.15, "control_drop": 0.25, "dense_accuracy": 99.1, "accuracy": 98.95},
        **{"entropy_rate": 500, "file_bytes": 4_000},
    }
    assert {name: row[name] for name in numbers} == pytest.approx(numbers)
    assert row["drop_low"] <= row["drop_points"] <= row["drop_high"]
    assert (row["method"], row["data"]) == ("ADMM (ours, from 1 bit)", "digits")
    shown = report.shown(made, report.admm.TABLE_4)
    assert len(shown) == len(made)
    if table is report.table_4:
        assert (row["network"], row["mode"]) == ("resnet20", "joint")
        assert shown["rate as in the paper"].iloc[-1] == "145.5×"
        assert shown["epochs, dense + then"].tolist() == ["–"] * len(paper) + ["20 + 4"]


def test_the_paper_states_the_accuracy_of_its_own_networks_alone():
    table = report.table_3([], dataset="mnist").set_index("method")
    stated = table[["dense_accuracy", "accuracy"]].dropna()
    assert stated.T.to_dict("list") == {"ADMM (Yang et al.)": [99.2, 99.2]}


def test_levels_are_of_our_rows_at_the_papers_rate_and_beyond(compressed):
    slow = compressed((990, 991, 900), nominal_rate=2_119.0)
    fast = [
        compressed((995, 991, right), nominal_rate=rate)
        for right, rate in ((985, 2_120.0), (970, 3_000.0))
    ]
    said = report.levels(report.table_3([slow, *fast], dataset="mnist"))
    numbers = ["2,120×", "(2 rows)", "97.00 to 98.50 %", "99.2 %", "99.50 to 99.50 %", "99.2 %"]
    assert re.findall(r"[\d,]+×|\(.*?\)|[\d.]+(?: to [\d.]+)? %", said) == numbers
    said = report.levels(report.table_3([slow], dataset="mnist"))
    assert said == "No row of ours is at the paper's rate of 2,120×."


def test_features_are_the_papers_and_name_the_tables_with_rows():
    table = report.features().set_index("method")
    assert (table.loc["ADMM (Yang et al.)"].iloc[:-1] == "yes").all()
    assert table["end-to-end"].eq("yes").sum() == 1
    assert table["rows in tables"].tolist() == ["4", "2", "2", "2, 3, 4"]


@pytest.mark.parametrize(
    ("mode", "name", "layers", "pays"),
    [
        # four nonzero values and zero: 3 bits for each of the 1,000 weights, not 2 for 100
        ("quantize", "quantization", {"levels": [4, 2], "kept": [100, 4_000]}, (7_000, 5_000)),
        # a small layer pays 32 bits too
        ("prune", "pruning", {"levels": [100, 800]}, (32 * 900, 900)),
    ],
)
def test_a_row_pays_as_its_mode_says(compressed, mode, name, layers, pays):
    nominal = {"quantize": 100 * 2 + 4_000, "prune": 100 * 7 + 800 * 32}[mode]
    layers = LAYERS.assign(bits={"quantize": [2, 1], "prune": [7, 32]}[mode], **layers)
    known = {"nominal_bits": nominal, "nominal_rate": 160_000 / nominal, "mode": mode}
    found = compressed((990, 990, 990), layers=layers, **known)
    (row,) = report.table_4([found], dataset="digits").tail(1).to_dict("records")
    assert row["method"] == f"ADMM (ours, {name} only)"
    assert row["rate"] == pytest.approx(160_000 / nominal)
    assert row["paper_rate"] == pytest.approx(160_000 / pays[0])
    assert row["mean_bits"] == pytest.approx(pays[0] / pays[1])


def test_table_4_as_the_paper_prints_it():
    """Its rates are those of its own columns, to within their rounding."""
    paper = report.reported("admm_table4")
    assert set(paper["network"]) <= set(networks.BUILDERS)
    share, bits = (paper["nonzero_percent"] / 100).fillna(1), paper["mean_bits"].fillna(32)
    half = share.map(lambda s: 0.0005 if s < 0.1 else 0.005 if s < 1 else 0)
    half_bits = bits.map(lambda b: 0 if b == 32 else 0.05)
    assert (32 / ((share + half) * (bits + half_bits)) <= paper["rate"] + 0.05).all()
    assert (32 / ((share - half) * (bits - half_bits)) >= paper["rate"] - 0.05).all()
    both = paper[["nonzero_percent", "mean_bits"]].notna().all(axis=1)
    assert (paper["mode"].eq("joint") == both).all()


def test_committed_table_4_keeps_other_pixels_apart(finished, compressed):
    """And what is there on CIFAR-10 retires the mirror's."""
    first, second, *_ = experiments.table_4("cifar10-jpeg", length="short").values()
    for experiment in (first, second):
        finished[experiment.name] = compressed((900, 900, 890), network="resnet20")
    exact, mirrored = report.committed("table-4").split("\n\n")
    assert exact.startswith("CIFAR-10\n")
    assert mirrored.startswith("JPEG mirror of CIFAR-10, not its pixels\n")
    assert "ReLeQ" in exact
    assert "ReLeQ" not in mirrored
    assert "(ours" not in exact
    assert mirrored.count("(ours") == 2

    row = experiments.table_4("cifar10", length="cpu")["resnet20", "quantize", 16, False]
    finished[row.name] = compressed((900, 900, 880), network="resnet20")
    exact, mirrored = report.committed("table-4").split("\n\n")
    assert exact.count("(ours") == mirrored.count("(ours") == 1
    assert "88.00" in exact
    assert "89.00" in mirrored


def test_finished_reads_what_is_there_and_trains_nothing(trained, tiny, monkeypatch):
    monkeypatch.setattr(runs.train, "_train", None)
    assert [run.id for run in report.finished(tiny)] == [tiny.id(0)]
    trained.folder.rename(trained.folder.with_name("elsewhere"))
    assert report.finished(tiny) == []


@pytest.mark.parametrize(
    ("mode", "budget"), [("joint", 68_880), ("prune", 32 * 40_000), ("quantize", 2 * 430_500)]
)
def test_a_real_runs_rate_is_what_its_budget_counted(results, tiny, mode, budget):
    """From the weights: at most the budget, in every mode, and `verify` says so too."""
    schedule = Schedule(epochs=1, lr=0.02, batch=64)
    stage = Stage(method="admm", schedule=schedule, options=(("budget", budget), ("mode", mode)))
    experiment = replace(tiny, slug=f"tiny-{mode}", stages=(stage,), mode=mode, budget=budget)
    made = runs.get(experiment, 0, device="cpu", quiet=True)
    assert verify(made) == []
    (row,) = report.table_4([[made]], dataset="digits").tail(1).to_dict("records")
    bits = 0
    for weight in compressible(made.model()).values():
        paid = weight.flatten() if mode == "quantize" else weight[weight != 0]
        bits += len(paid) * (32 if mode == "prune" else math.ceil(math.log2(len(paid.unique()))))
    assert bits <= budget
    assert row["paper_rate"] == pytest.approx(32 * 430_500 / bits)
    assert row["paper_rate"] == pytest.approx(32 * 430_500 / budget, rel=0.06)
    assert row["rate"] >= row["paper_rate"] * (1 - 1e-12)


def test_claims_about_figure_2_hold_or_do_not_by_their_numbers():
    table = pd.DataFrame(
        {
            "rho": [0.0005, 0.01, 0.05, 0.1, 0.5],
            "loss": [9.0, 0.1, 0.2, 0.3, 0.4],
            "quantized_loss": [0.0, 0.5, 0.3, 0.4, 0.6],
            "mse_first": 1.0,
            "mse_peak": [1.0, 4.0, 4.0, 4.0, 4.0],
            "mse": [1.0, 1.0, 0.02, 1.0, 1.0],
        }
    )
    numbers = [
        *("(0.1000, 0.2000, 0.3000, 0.4000)", "(it is at ρ = 0.05)"),
        "(at 4 of 4 ρ; at the end 25 %, 0 %, 25 %, 25 % of the peak are left)",
        "(0 % of its peak are left)",
    ]
    lines = report.figure_2_claims(table).splitlines()
    assert [line.partition(": holds ")[2] for line in lines] == numbers
    losses = {"loss": [9.0, 0.1, 0.4, 0.3, 0.2], "quantized_loss": [0.0, 0.1, 0.2, 0.3, 0.4]}
    lines = report.figure_2_claims(table.assign(mse=3.0, **losses)).splitlines()
    assert all(": does not hold (" in line for line in lines)


def test_uniform_spends_as_much_on_every_layer():
    table = pd.DataFrame({"weights": [1000, 3000], "kept": [300, 100], "bits": [1, 3]})
    even = report.uniform(table)
    assert even["kept"].tolist() == [100, 300]  # a tenth each
    assert even["bits"].tolist() == [1.5, 1.5]  # (300·1 + 100·3)/400
    assert (even["kept"] * even["bits"]).sum() == (table["kept"] * table["bits"]).sum()


def test_a_table_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    table = pd.DataFrame({"a": [1.5], "b": ["x"]})
    report.save(table, "t", tmp_path / "new")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "t.csv"), table)

    def full(file):
        raise OSError("no space left")

    monkeypatch.setattr(report.rows.atomic.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        report.save(table.assign(a=2.5), "t", tmp_path / "new")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "new" / "t.csv"), table)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["t.csv"]


def test_the_speed_that_is_committed_is_shown_with_where_it_was_measured(results):
    table = pd.DataFrame(
        {
            "step": ["plain loop", "data on the device", "best loader, else as ours"],
            "images_per_second": [250.4, 1000.0, 900.0],
            "times_before": [math.nan, 3.994, math.nan],
            "times_plain": [1.0, 3.994, 3.594],
            **{"dataset": "cifar10-jpeg", "network": "resnet20", "batch": 128, "device": "cpu"},
            **{"cpu": "some processor", "cores": 4, "threads": 2, "torch": "2.11.0"},
        }
    )
    (results / "benchmarks").mkdir()
    table.to_csv(results / "benchmarks" / "speed-cifar10-jpeg-cpu.csv", index=False)
    heading, columns, *rows = report.committed("speed").splitlines()
    assert heading.startswith("resnet20 on JPEG mirror of CIFAR-10, not its pixels, batch 128; ")
    assert heading.endswith("; some processor, on the CPU, 2 threads, torch 2.11.0")
    assert " ".join(columns.split()) == "step images/s times the one before times the plain loop"
    numbers = [["250", "–", "1.00×"], ["1,000", "3.99×", "3.99×"], ["900", "–", "3.59×"]]
    assert [row.split()[-3:] for row in rows] == numbers
    on_gpu = table.assign(launches=[300, math.nan, 2])
    shown = report.shown(on_gpu, report.speed.LADDER)
    assert shown["launches"].tolist() == ["300", "–", "2"]
