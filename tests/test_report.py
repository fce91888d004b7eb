"""Tables from made-up run folders whose numbers are known."""

import hashlib
import json
import math
import shutil
import statistics

import numpy as np
import pandas as pd
import pytest

from lib import report, runs
from lib.experiments import LENET5_WEIGHTS

IMAGES = 1000


@pytest.fixture
def make(results):
    """Makes the folder of a run that got the first so many images right, and reads it."""

    def make(id, right, **result):
        correct = np.arange(IMAGES) < right if isinstance(right, int) else right
        contents = dict.fromkeys(runs.FILES, b"")
        contents["correct.npy"] = runs._npy(np.packbits(correct))
        stages = [{"method": "admm", "options": [["rho", 0.05], ["start_bits", 1]]}]
        contents["experiment.json"] = json.dumps({"stages": stages}).encode()
        digests = {name: hashlib.sha256(c).hexdigest() for name, c in contents.items()}
        result = (
            {"parent": None}
            | result
            | {"id": id, "files": digests, "images": IMAGES, "accuracy": float(correct.mean())}
        )
        contents["result.json"] = json.dumps(result).encode()
        folder = results / "runs" / id
        shutil.rmtree(folder, ignore_errors=True)
        runs.install(folder, contents)
        return runs.read(folder)

    return make


@pytest.fixture
def compressed(make):
    """Makes a compressed run a seed, its parent and control, from how many each gets right."""

    def compressed(*rights, **result):
        found = []
        for seed, (dense, control, right) in enumerate(rights):
            result |= {
                "parent": make(f"dense-s{seed}", dense).id,
                "control": make(f"control-s{seed}", control).id,
                "dense_accuracy": dense / IMAGES,
                "control_accuracy": control / IMAGES,
                "seed": seed,
            }
            found.append(make(f"compressed-s{seed}", right, **result))
        return found

    return compressed


def test_a_drop_is_the_mean_of_paired_differences(compressed):
    found = compressed((990, 995, 980), (992, 993, 985), (988, 990, 987))
    losses, against_control = [1.0, 0.7, 0.1], [1.5, 0.8, 0.3]  # points
    for against, wanted in (("dense", losses), ("control", against_control)):
        drop = report.drop(found, against=against)
        assert drop["drop"] == pytest.approx(statistics.mean(wanted))
        assert drop["drop_sd"] == pytest.approx(statistics.stdev(wanted))
        assert drop["n"] == 3
    alone = report.drop(found[:1])
    assert alone["drop"] == pytest.approx(1.0)
    assert math.isnan(alone["drop_sd"])


def test_an_interval_of_networks_that_fail_alike_is_a_point(compressed):
    assert report.interval(compressed((990, 990, 990))) == (0, 0)
    # every image lost is certain, whatever is drawn
    assert report.interval(compressed((1000, 1000, 0))) == (100, 100)


def test_an_interval_of_one_pair_is_the_normal_one(compressed):
    found = compressed((1000, 1000, 900))  # an image is lost with p = 0.1
    low, high = report.interval(found)
    spread = 1.96 * 100 * math.sqrt(0.1 * 0.9 / IMAGES)
    assert low == pytest.approx(10 - spread, abs=0.15)
    assert high == pytest.approx(10 + spread, abs=0.15)
    assert report.interval(found) == (low, high)


def test_an_interval_is_wider_when_seeds_differ(compressed):
    alike = report.interval(compressed(*[(1000, 1000, 950)] * 3))
    low, high = report.interval(compressed(*[(1000, 1000, right) for right in (990, 950, 910)]))
    assert low < alike[0]
    assert high > alike[1]
    assert low <= 5 <= high


def test_images_won_and_lost_cancel(make):
    right = np.arange(IMAGES) >= 100
    make("dense-s0", 900)
    run = make("compressed-s0", right, parent="dense-s0")
    low, high = report.interval([run])
    assert low < 0 < high
    assert low == pytest.approx(-high, abs=0.4)


def test_table_3_has_the_papers_rows_and_ours(compressed):
    bits = 6_888
    found = compressed(
        (990, 991, 989),
        (992, 993, 990),
        kept_fraction=0.01,
        nominal_bits=bits,
        nominal_rate=32 * LENET5_WEIGHTS / bits,
        entropy_rate=500.0,
        estimated_bytes=4_000,
    )
    table = report.table_3([found, []], dataset="mnist")  # an experiment without runs has no row
    paper, ours = table[table["source"] == "reported"], table[table["source"] == "ours"]
    assert "ADMM (Yang et al.)" in set(paper["method"])
    assert set(paper["rate"]) >= {70, 1910, 2120}
    (row,) = ours.to_dict("records")
    assert row["method"] == "ADMM (ours, from 1 bit)"
    assert row["rate"] == pytest.approx(2000)
    assert row["nonzero_percent"] == pytest.approx(1)
    assert row["mean_bits"] == pytest.approx(bits / 4_305)
    assert row["drop_points"] == pytest.approx(0.15)
    assert row["control_drop"] == pytest.approx(0.25)
    assert row["drop_low"] <= row["drop_points"] <= row["drop_high"]
    assert row["dense_accuracy"] == pytest.approx(99.1)
    assert row["accuracy"] == pytest.approx(98.95)
    assert (row["n"], row["data"]) == (2, "mnist")
    assert (row["entropy_rate"], row["estimated_bytes"]) == (500, 4_000)


def test_table_3_without_runs_is_the_papers_alone():
    table = report.table_3([[], []], dataset="mnist")
    assert set(table["source"]) == {"reported"}


def test_finished_reads_what_is_there_and_trains_nothing(trained, tiny, monkeypatch):
    monkeypatch.setattr(runs, "_train", None)
    assert [run.id for run in report.finished(tiny)] == [tiny.id(0)]
    trained.folder.rename(trained.folder.with_name("elsewhere"))
    assert report.finished(tiny) == []


def test_a_real_run_makes_a_row(trained):
    table = report.table_3([[trained]], dataset="digits")
    (row,) = table[table["source"] == "ours"].to_dict("records")
    result = trained.result
    lost = result["dense_accuracy"] - result["accuracy"]
    assert row["drop_points"] == pytest.approx(100 * lost)
    assert row["mean_bits"] == pytest.approx(result["mean_bits"])


def test_uniform_spends_as_much_on_every_layer():
    table = pd.DataFrame({"weights": [1000, 3000], "kept": [300, 100], "bits": [1, 3]})
    even = report.uniform(table)
    assert even["kept"].tolist() == [100, 300]  # a tenth each
    assert even["bits"].tolist() == [1.5, 1.5]  # (300·1 + 100·3)/400
    assert (even["kept"] * even["bits"]).sum() == (table["kept"] * table["bits"]).sum()


def test_tables_are_saved_apart_for_the_embedded_data(results):
    table = pd.DataFrame({"a": [1.5], "b": ["x"]})
    report.save(table, "t", dataset="digits")
    report.save(table, "t", dataset="mnist")
    for folder in (results / "digits" / "tables", results / "tables"):
        pd.testing.assert_frame_equal(pd.read_csv(folder / "t.csv"), table)


def test_the_speed_that_is_committed_is_shown_with_where_it_was_measured(results):
    assert report.committed_speed() == "Not measured on CIFAR yet; notebook 31 says how."
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
    heading, columns, *rows = report.committed_speed().splitlines()
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
