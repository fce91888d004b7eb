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
from lib.workbook.experiments.spec import FULL, MNIST, TRIALS, Entry

df = experiments.df

ADMM = "resnet20-cifar10-admm"
DF = "resnet20-cifar10-df"
DENSE = "resnet20-cifar10-dense-100ep"
START = "resnet20-cifar10-dense-100ep-trained-on-50ep"

#: The rows of the first three priorities, seed by seed: beginnings of slugs, in their order. The
#: two controls have one slug, as both train on for 50 epochs.
FIRST = [
    DENSE,
    START,
    f"{ADMM}-quantize-16x-40ep-growth",
    f"{ADMM}-joint-35.4x-40ep-growth",
    START,
    f"{DF}-hybrid-50pct-5+45ep",
]
CONSTANT = [f"{ADMM}-quantize-16x-40ep-then", f"{ADMM}-joint-35.4x-40ep-start_bits2-then"]
THIRD = [
    f"{DF}-{mode}-{percent}pct-5+45ep"
    for mode, percents in (("hybrid", (60, 75)), ("filters", (50, 60, 75)), ("ranks", (50, 60, 75)))
    for percent in percents
]


@pytest.fixture
def queue(results, capsys):
    """What ``list`` says on an empty results folder."""
    assert main(["list", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_first_three_priorities_are_resnet_20_on_cifar_10(queue):
    first = [row for row in queue if row["priority"] in (1, 2, 3)]
    before = queue[: queue.index(first[-1])]
    assert not any("-mnist-" in row["id"] for row in before)
    expected = [
        *((slug, 0, 1) for slug in [*FIRST, *CONSTANT]),
        *((slug, seed, 2) for seed in (1, 2) for slug in FIRST),
        *((slug, 0, 3) for slug in THIRD),
    ]
    for row, (slug, seed, priority) in zip(first, expected, strict=True):
        assert row["id"].startswith(slug)
        assert row["id"].endswith(f"-s{seed}")
        assert (row["priority"], row["gpu"]) == (priority, False)
    assert len({row["id"] for row in first}) == len(first)


def test_trials_come_right_after_the_first_priority(queue):
    found = [row for row in queue if row["priority"] == TRIALS]
    first = [row["priority"] for row in queue].index(TRIALS)
    assert queue[first : first + len(found)] == found
    assert {row["priority"] for row in queue[:first]} == {1}
    start = "resnet20-cifar10-dense-40ep-held-out"
    ends = [row for row in found if "-admm-" in row["id"] and row["id"].endswith("-s0")]
    grid = [row for row in found if "-df-" in row["id"]]
    assert (len(ends), len(grid)) == (6, 9)
    assert found[0]["id"].startswith(start)
    assert all(row["parent"] == found[0]["id"] for row in ends + grid)
    others = [row for row in found[1:] if row not in ends + grid]
    today = ends[0]["id"].removesuffix("-s0")
    assert [row["id"].rpartition("-s")[0] for row in others][1] == today
    assert all(row["id"].endswith("-s1") for row in others)
    assert others[0]["id"].startswith(start)


def test_the_trials_have_short_schedules():
    ends = experiments.trials.endings("cifar10")
    for experiment in ends.values():
        assert [stage.schedule.epochs for stage in experiment.stages] == [20, 5]
        assert experiment.held_out
        assert experiment.parent.epochs == 40
    assert len({e.name for e in ends.values()}) == len({e.slug for e in ends.values()}) == 6
    grid = df.trials("cifar10", **df.cpu())
    for experiment in grid.values():
        assert experiment.parent == ends["today"].parent
        assert experiment.epochs == 5


def test_mnist_comes_after_them_and_before_the_papers_own_network(queue):
    places = {}
    for row in queue:
        places.setdefault(row["priority"], set()).add(tuple(row["id"].split("-")[:2]))
    mnist = {row["priority"] for row in queue if "-mnist-" in row["id"]}
    assert mnist == {MNIST}
    assert places[5] == {("resnet56", "cifar10")}
    assert places[6] == {("resnet20", "cifar10")}
    assert not any("cifar10-jpeg" in row["id"] for row in queue)


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


def test_the_schedule_for_a_cpu():
    rows = [entry.experiment for entry in experiments.cpu.entries("cifar10")]
    dense = experiments.dense("cifar10", network="resnet20", epochs=100)
    starts = {row.parent for row in rows if row.network == "resnet20"}
    assert starts - {None, dense} == {
        df.weak_start("cifar10", **df.cpu()),
        df.twice("cifar10", **df.cpu())["hybrid"],
    }
    usual = [row for row in rows if row.parent == dense]
    assert {row.epochs for row in usual} == {50}
    assert [row.epochs for row in rows if row.parent is None] == [150]  # from scratch
    assert len({row.control for row in usual}) == 2
    admm, tune = experiments.admm_table_4.CPU, df.CPU["tune"]
    for row in usual:
        *_, first, tuning = row.stages
        if row.mode in ("quantize", "joint"):
            assert (first.method, tuning.method) == ("admm", "tune-codebooks")
            assert (first.epochs, tuning.epochs) == (admm["compress"], admm["tune"])
            assert tuning.schedule.lr == pytest.approx(first.schedule.lr / 10)
        else:
            assert tuning.epochs == tune
            assert tuning.schedule.lr == pytest.approx(0.01)  # a tenth of the dense network's


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
