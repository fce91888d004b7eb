"""ADMM's tables, from made-up runs whose numbers are known and from real ones."""

import math
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
    {
        "name": ["a", "b"],
        "weights": [1_000, 4_000],
        "kept": [100, 800],
        "levels": [7, 2],
        "bits": [3, 1],
    }
)
KNOWN = {
    "network": "lenet5",
    "method": "admm",
    "options": {"rho": 0.05, "start_bits": 1},
    "kept_fraction": 900 / 5_000,
    "nominal_bits": 1_100,
    "nominal_rate": 32 * 5_000 / 1_100,
    "entropy_rate": 500.0,
    "file_bytes": 4_000,
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


def test_a_drop_is_the_mean_of_paired_differences(compressed):
    found = compressed((990, 995, 980), (992, 993, 985), (988, 990, 987))
    losses, against_control = [1.0, 0.7, 0.1], [1.5, 0.8, 0.3]  # points
    for against, wanted in (("drop", losses), ("control_drop", against_control)):
        made = report.rows.summary(found, f"{against} {against}_sd n")
        assert made[against] == pytest.approx(statistics.mean(wanted))
        assert made[f"{against}_sd"] == pytest.approx(statistics.stdev(wanted))
        assert made["n"] == 3
    alone = report.rows.summary(found[:1], "drop drop_sd")
    assert alone["drop"] == pytest.approx(1.0)
    assert math.isnan(alone["drop_sd"])


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


def test_an_interval_of_several_seeds_is_over_seeds(compressed):
    found = compressed((990, 995, 980), (992, 993, 985), (988, 990, 987))
    for against, losses in (("dense", [1.0, 0.7, 0.1]), ("control", [1.5, 0.8, 0.3])):
        interval = report.interval(found, against=against)
        expected = stats.t.interval(
            0.95, 2, statistics.mean(losses), statistics.stdev(losses) / math.sqrt(3)
        )
        assert (interval.low, interval.high) == pytest.approx(expected)
        assert (interval.over, interval.n) == ("seeds", 3)


def test_an_interval_of_one_pair_is_over_images(compressed):
    found = compressed((1000, 1000, 900))  # an image is lost with p = 0.1
    interval = report.interval(found)
    spread = 1.96 * 100 * math.sqrt(0.1 * 0.9 / IMAGES)
    assert interval.mean == pytest.approx(10)
    assert (interval.low, interval.high) == pytest.approx((10 - spread, 10 + spread), abs=0.01)
    assert (interval.over, interval.n) == ("images", 1)


def test_images_won_and_lost_cancel(compressed):
    interval = report.interval(compressed((900, 900, np.arange(IMAGES) >= 100)))
    assert interval.mean == 0
    assert interval.low == pytest.approx(-interval.high)
    assert interval.low < 0


def test_table_3_has_the_papers_rows_and_ours(compressed):
    found = compressed((990, 991, 989), (992, 993, 990))
    table = report.table_3([found, []], dataset="mnist")  # an experiment without runs has no row
    paper, ours = table[table["source"] == "reported"], table[table["source"] == "ours"]
    assert "ADMM (Yang et al.)" in set(paper["method"])
    assert set(paper["rate"]) >= {70, 1910, 2120}
    (row,) = ours.to_dict("records")
    assert row["method"] == "ADMM (ours, from 1 bit)"
    assert row["rate"] == pytest.approx(160_000 / 1_100)
    assert row["nonzero_percent"] == pytest.approx(18)
    assert row["mean_bits"] == pytest.approx(1_100 / 900)
    assert row["drop_points"] == pytest.approx(0.15)
    assert row["control_drop"] == pytest.approx(0.25)
    assert row["drop_low"] <= row["drop_points"] <= row["drop_high"]
    assert row["dense_accuracy"] == pytest.approx(99.1)
    assert row["accuracy"] == pytest.approx(98.95)
    assert (row["n"], row["data"]) == (2, "mnist")
    assert (row["entropy_rate"], row["file_bytes"]) == (500, 4_000)


def test_the_paper_states_the_accuracy_of_its_own_networks_alone():
    table = report.table_3([], dataset="mnist").set_index("method")
    stated = table[["dense_accuracy", "accuracy"]].dropna()
    assert stated.T.to_dict("list") == {"ADMM (Yang et al.)": [99.2, 99.2]}


def test_levels_are_of_our_rows_at_the_papers_rate_and_beyond(compressed):
    slow = compressed((990, 991, 900), nominal_rate=2_119.0)
    rows = [slow]
    for right, rate in ((985, 2_120.0), (970, 3_000.0)):
        rows.append(compressed((995, 991, right), nominal_rate=rate))
    said = report.levels(report.table_3(rows, dataset="mnist"))
    assert said == (
        "At the paper's rate of 2,120× and beyond, our compressed networks (2 rows) have 97.00 to "
        "98.50 %; the paper's has 99.2 %. Our dense networks have 99.50 to 99.50 %; the paper's "
        "has 99.2 %."
    )
    said = report.levels(report.table_3([slow], dataset="mnist"))
    assert said == "No row of ours is at the paper's rate of 2,120×."


def test_features_are_the_papers_and_name_the_tables_with_rows():
    table = report.features().set_index("method")
    features = ["pruning", "quantization", "automated", "end-to-end"]
    stated = {name: [f for f in features if table.loc[name, f] == "yes"] for name in table.index}
    assert stated == {
        "AMC": ["pruning", "automated"],
        "HAQ": ["quantization", "automated"],
        "CLIP-Q": ["pruning", "quantization", "automated"],
        "ADMM (Yang et al.)": features,
    }
    assert table["rows in tables"].tolist() == ["4", "2", "2", "2, 3, 4"]


def test_table_4_has_the_papers_rows_and_ours(compressed):
    found = compressed((990, 991, 989), (992, 993, 990), network="resnet20")
    table = report.table_4([found, []], dataset="digits")
    paper, ours = table[table["source"] == "reported"], table[table["source"] == "ours"]
    assert set(paper["data"]) == {"cifar10"}
    (row,) = ours.to_dict("records")
    assert (row["network"], row["mode"], row["data"]) == ("resnet20", "joint", "digits")
    assert row["method"] == "ADMM (ours, from 1 bit)"
    assert (row["dense_epochs"], row["epochs"]) == (20, 4)
    assert row["rate"] == row["paper_rate"] == pytest.approx(160_000 / 1_100)
    assert row["mean_bits"] == pytest.approx(1_100 / 900)
    assert row["drop_points"] == pytest.approx(0.15)
    assert row["control_drop"] == pytest.approx(0.25)
    assert row["drop_low"] <= row["drop_points"] <= row["drop_high"]
    assert row["n"] == 2
    shown = report.shown(table, report.admm.TABLE_4)
    assert len(shown) == len(table)
    assert shown["rate as in the paper"].iloc[-1] == "145.5×"
    assert shown["epochs, dense + then"].tolist() == ["–"] * len(paper) + ["20 + 4"]


def test_when_only_quantizing_zeros_pay_and_zero_is_a_value(compressed):
    """Four nonzero values and zero: 3 bits for each of the 1,000 weights, not 2 for 100."""
    layers = LAYERS.assign(levels=[4, 2], bits=[2, 1], kept=[100, 4_000])
    nominal = 100 * 2 + 4_000
    result = {"nominal_bits": nominal, "nominal_rate": 160_000 / nominal, "mode": "quantize"}
    found = compressed((990, 990, 990), layers=layers, **result)
    (row,) = report.table_4([found], dataset="digits").tail(1).to_dict("records")
    assert row["method"] == "ADMM (ours, quantization only)"
    assert row["rate"] == pytest.approx(160_000 / nominal)
    assert row["paper_rate"] == pytest.approx(160_000 / (3 * 1_000 + 4_000))
    assert row["mean_bits"] == pytest.approx(7_000 / 5_000)


def test_when_only_pruning_a_small_layer_pays_32_bits_too(compressed):
    layers = LAYERS.assign(levels=[100, 800], bits=[7, 32])
    nominal = 100 * 7 + 800 * 32
    result = {"nominal_bits": nominal, "nominal_rate": 160_000 / nominal, "mode": "prune"}
    found = compressed((990, 990, 990), layers=layers, **result)
    (row,) = report.table_4([found], dataset="digits").tail(1).to_dict("records")
    assert row["method"] == "ADMM (ours, pruning only)"
    assert row["paper_rate"] == pytest.approx(5_000 / 900)
    assert row["mean_bits"] == 32


def test_table_4_as_the_paper_prints_it():
    """Its rates are those of its own columns, to within their rounding."""
    paper = report.reported("admm_table4")
    assert set(paper["network"]) <= set(networks.BUILDERS)
    share = (paper["nonzero_percent"] / 100).fillna(1)
    half = share.map(lambda s: 0.0005 if s < 0.1 else 0.005 if s < 1 else 0)
    bits = paper["mean_bits"].fillna(32)
    half_bits = bits.map(lambda b: 0 if b == 32 else 0.05)
    rate = paper["rate"]
    assert (32 / ((share + half) * (bits + half_bits)) <= rate + 0.05).all()
    assert (32 / ((share - half) * (bits - half_bits)) >= rate - 0.05).all()
    assert (
        paper["mode"].eq("joint") == paper[["nonzero_percent", "mean_bits"]].notna().all(axis=1)
    ).all()


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


@pytest.mark.parametrize("mode", ["joint", "prune", "quantize"])
def test_a_real_runs_rate_is_what_its_budget_counted(results, tiny, mode):
    """From the weights: at most the budget, in every mode, and `verify` says so too."""
    schedule = Schedule(epochs=1, lr=0.02, batch=64)
    budget = {"joint": 68_880, "prune": 32 * 40_000, "quantize": 2 * 430_500}[mode]
    stage = Stage(method="admm", schedule=schedule, options=(("budget", budget), ("mode", mode)))
    made = runs.get(
        replace(tiny, slug=f"tiny-{mode}", stages=(stage,), mode=mode, budget=budget),
        0,
        device="cpu",
        quiet=True,
    )
    assert verify(made) == []
    (row,) = report.table_4([[made]], dataset="digits").tail(1).to_dict("records")
    bits = 0
    for weight in compressible(made.model()).values():
        if mode == "quantize":
            bits += math.ceil(math.log2(len(weight.unique()))) * weight.numel()
        else:
            kept = weight[weight != 0]
            bits += len(kept) * (
                32 if mode == "prune" else math.ceil(math.log2(len(kept.unique())))
            )
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
            "mse_first": [1.0] * 5,
            "mse_peak": [1.0, 4.0, 4.0, 4.0, 4.0],
            "mse": [1.0, 1.0, 0.02, 1.0, 1.0],
        }
    )
    assert report.figure_2_claims(table).splitlines() == [
        "a smaller ρ gives a lower loss of W: holds (0.1000, 0.2000, 0.3000, 0.4000)",
        "the lowest quantized loss is not at the smallest ρ: holds (it is at ρ = 0.05)",
        "the MSE of W and V first rises, then falls: holds (at 4 of 4 ρ; at the end 25 %, 0 %, "
        "25 %, 25 % of the peak are left)",
        "ρ = 0.05 is enough for the MSE to vanish: holds (0 % of its peak are left)",
    ]
    worse = table.assign(
        loss=[9.0, 0.1, 0.4, 0.3, 0.2], quantized_loss=[0.0, 0.1, 0.2, 0.3, 0.4], mse=3.0
    )
    lines = report.figure_2_claims(worse).splitlines()
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
            "dataset": "cifar10-jpeg",
            "network": "resnet20",
            "batch": 128,
            "device": "cpu",
            "cpu": "some processor",
            "cores": 4,
            "threads": 2,
            "torch": "2.11.0",
        }
    )
    folder = results / "benchmarks"
    folder.mkdir()
    table.to_csv(folder / "speed-cifar10-jpeg-cpu.csv", index=False)
    heading, columns, *rows = report.committed("speed").splitlines()
    assert heading == (
        "resnet20 on JPEG mirror of CIFAR-10, not its pixels, batch 128; some processor, on the "
        "CPU, 2 threads, torch 2.11.0"
    )
    assert " ".join(columns.split()) == "step images/s times the one before times the plain loop"
    assert [row.split()[-3:] for row in rows] == [
        ["250", "–", "1.00×"],
        ["1,000", "3.99×", "3.99×"],
        ["900", "–", "3.59×"],
    ]
    on_gpu = report.shown(
        table.assign(launches=[300, math.nan, 2], waits=[1, math.nan, 0]), report.speed.LADDER
    )
    assert on_gpu["launches"].tolist() == ["300", "–", "2"]
    assert on_gpu["waits"].tolist() == ["1", "–", "0"]
