"""The order in which missing runs are trained: over all data sets, by priority, then by seed."""

import json
import math
from dataclasses import replace

import pytest

from lib import data
from lib.training import OutOfTime
from lib.workbook import experiments, runs
from lib.workbook.cli import main
from lib.workbook.experiments import catalogue
from lib.workbook.experiments.spec import FULL, Entry

df = experiments.df


@pytest.fixture
def queue(results, capsys):
    """What ``list`` says on an empty results folder."""
    assert main(["list", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_full_schedules_and_what_takes_days_are_a_gpus(queue):
    """All of CIFAR by the full schedule, and all of ImageNet."""
    gpu = {row["id"]: row["priority"] for row in queue if row["gpu"]}
    assert {priority for priority in gpu.values() if priority < 10} == {FULL}
    slow = {row["id"] for row in queue if row["seconds"]["cpu"] > 2 * 86_400}
    assert slow <= set(gpu)
    assert not any("-mnist-" in id for id in gpu)


def test_needs_come_before_what_needs_them(queue):
    place = {row["id"]: number for number, row in enumerate(queue)}
    for number, row in enumerate(queue):
        for need in filter(None, (row["parent"], row["like"], row["control"])):
            assert place[need] < number
            assert row["gpu"] or not queue[place[need]]["gpu"]


def test_missing_on_a_cpu_leaves_a_gpus_runs_out(results, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(data, "at_hand", lambda name: name in ("cifar10", "mnist"))
    monkeypatch.setattr(runs.train, "get", lambda e, seed, **options: asked.append([e, seed]))
    assert main(["run", "--missing", "--device", "cpu"]) == 0
    entries = [e for name in ("mnist", "cifar10") for e in catalogue(name) if not e.gpu]
    wanted = [(e.place(seed), experiment, seed) for e in entries for experiment, seed in e.runs]
    assert asked == [run for _, *run in sorted(wanted, key=lambda one: one[0])]
    assert "runs by a schedule for a GPU" in capsys.readouterr().out


def test_a_cpu_has_every_row_that_a_notebook_asks_for_by_its_schedule():
    """So that the batch trains it before, and no notebook a row for a GPU."""
    place = df.chosen("auto", dataset="cifar10", device="cpu")
    assert place == df.cpu()
    names = ("curve", "schedule_rows", "schemes", "as_printed", "binary", "trials", "gain", "twice")
    parts = [getattr(df, name) for name in names]
    asked = [row for part in parts for row in part("cifar10", **place).values()]
    asked += experiments.table_4("cifar10", length="cpu").values()
    there = {entry.experiment for entry in catalogue("cifar10") if not entry.gpu}
    for row in asked:
        assert {row, *row.needs} <= there
    assert df.chosen("auto", dataset="cifar10", device="cuda") == {}
    assert df.chosen("auto", dataset="digits", device="cpu") == {}
    with pytest.raises(ValueError, match="length = 'long': choose auto, full, cpu or short"):
        df.chosen("long", dataset="cifar10", device="cpu")


def test_entries_of_one_experiment_are_merged_seed_by_seed():
    experiment = experiments.dense("digits")
    soon, thrice = Entry(experiment, "a test", 1), Entry(experiment, "a test", 4, seeds=3)
    for merged in (soon.merged(thrice), thrice.merged(soon)):
        assert [merged.place(seed) for seed in range(3)] == [(1, 0), (4, 1), (4, 2)]
        assert merged.seeds == 3
    early = replace(thrice, priority=3, later_priority=2)
    assert [early.merged(thrice).place(seed) for seed in range(2)] == [(3, 0), (2, 1)]
    assert soon.merged(soon) == soon


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_the_time_limit_nothing_is_begun(results, tiny, monkeypatch, jobs):
    monkeypatch.setattr(runs.parallel, "_attempt", None)
    tasks = [(tiny.parent, 0), (tiny.parent, 1)]
    outcomes = list(runs.parallel.run_all(tasks, jobs=jobs, deadline=-math.inf))
    assert [(id, type(error)) for id, error in outcomes] == [
        (e.id(seed), OutOfTime) for e, seed in tasks
    ]


def test_resnet_20s_controls_keep_their_weights():
    row = experiments.table_4("cifar10", length="cpu")["resnet20", "quantize", 16, True]
    assert not runs.result._is_control(row.control)
    assert runs.result._is_control(experiments.table_3("mnist")[0].control)
