"""What each command prints and how it exits."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from urllib.error import URLError

import pytest

from lib import paths
from lib.workbook import experiments, runs
from lib.workbook.cli import main
from lib.workbook.experiments import Entry

#: What a program reads of a run.
KEYS = {
    *("id", "folder", "parent", "like", "control"),
    *("status", "priority", "seconds", "purpose", "gpu"),
}

ON_CPU = ["--device", "cpu", "--threads", "1"]


@pytest.fixture
def catalogue(results, tiny, monkeypatch):
    """A catalogue of one compression and its dense parent, both trained in a second."""
    pairs = [(tiny, 2), (tiny.parent, 1)]
    entries = [
        Entry(experiment=experiment, seeds=1, purpose="a test", priority=priority)
        for experiment, priority in pairs
    ]
    for module in (experiments, experiments.index):
        monkeypatch.setattr(
            module, "catalogue", lambda dataset: entries if dataset == "digits" else []
        )


# ----------------------------------------------------------------------------------------- list


def test_list_shows_every_run_with_its_status(trained, catalogue, tiny, capsys):
    assert main(["list", "--dataset", "digits"]) == 0
    _, *rows, last, times, check, one, two = capsys.readouterr().out.splitlines()
    assert times == "CPU times are for a processor with AVX-512 and bfloat16, not measured here"
    assert check == "not measured on a GPU: python -m lib gpu-check"
    assert one.startswith("not measured on a GPU: papermill notebooks/90-benchmarks.ipynb")
    assert two.startswith("not measured on a GPU: papermill notebooks/91-training-steps.ipynb")
    assert [row.split()[0] for row in rows] == [tiny.parent.id(0), tiny.id(0)]  # by priority
    assert all(row.split()[1] == "done" and row.endswith("a test") for row in rows)
    assert last.startswith("2 of 2 done")


def test_list_for_programs(results, capsys):
    assert main(["list", "--dataset", "digits", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    ids = {row["id"] for row in rows}
    for row in rows:
        assert set(row) == KEYS
        assert row["folder"] == row["id"]
        assert row["status"] == "missing"
        assert set(row["seconds"]) == {"cpu", "cuda"}
        for kind in ("parent", "like"):
            assert row[kind] is None or row[kind] in ids
        assert row["id"][-3:] == (row["parent"] or row["id"])[-3:]  # the same seed
    assert [row["priority"] for row in rows] == sorted(row["priority"] for row in rows)


def test_list_leaves_out_what_every_machine_has_unless_asked(results, capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert "mnist" in out
    assert "alexnet-imagenet-published" in out
    assert not any(name in out for name in paths.APART)


# ------------------------------------------------------------------------------------------ run


def test_run_by_name(catalogue, tiny, said):
    assert f"done     {tiny.id(0)}" in said("run", tiny.id(0), *ON_CPU)
    assert runs.status(tiny, 0) == runs.status(tiny.parent, 0) == "done"
    assert runs.read(runs.folder_of(tiny, 0)).result["threads"] == 1


@pytest.fixture
def asked(monkeypatch):
    """What would be trained."""
    found = []
    monkeypatch.setattr(
        runs.train, "get", lambda experiment, seed, **options: found.append(experiment)
    )
    return found


def test_run_missing_does_what_is_missing_by_priority(catalogue, tiny, said, asked):
    said("run", "--missing", "--dataset", "digits")
    assert asked == [tiny.parent, tiny]


def test_run_missing_with_nothing_missing(trained, catalogue, said, asked):
    said("run", "--missing", "--dataset", "digits")
    assert asked == []


def test_run_missing_leaves_out_what_is_not_at_hand(results, said, asked, monkeypatch):
    monkeypatch.setenv("WORKBOOK_DATA", str(results / "data"))
    out = "\n".join(said("run", "--missing"))
    assert asked == []
    assert "left out: cifar100 is not at hand" in out
    assert "left out: imagenet is not at hand" in out
    (results / "data" / "cifar-10-batches-py").mkdir(parents=True)
    said("run", "--missing", "--device", "cpu")
    assert {(e.dataset, e.network) for e in asked} == {
        ("cifar10", "resnet20"),
        ("cifar10", "resnet56"),
    }


def test_a_time_limit_stops_cleanly_and_says_how_to_go_on(catalogue, tiny, capsys, monkeypatch):
    (stage,) = tiny.parent.stages
    stage = replace(stage, schedule=replace(stage.schedule, epochs=10_000))
    long = replace(tiny.parent, slug="long", stages=(stage,))
    monkeypatch.setattr(experiments, "find", lambda name: [(long, 0)])
    assert main(["run", "long", "--time-limit", "1", *ON_CPU]) == 0
    out = capsys.readouterr().out
    assert f"time     {long.id(0)}: stopped after" in out
    assert "1 runs left at the time limit; the same command goes on with them" in out
    assert runs.status(long, 0) == "partial"


def test_a_failed_run_is_reported_and_the_exit_status_is_1(catalogue, tiny, capsys, monkeypatch):
    def get(experiment, seed, **options):
        if experiment == tiny.parent:
            raise KeyError("bug")
        raise ValueError("a message")

    monkeypatch.setattr(runs.train, "get", get)
    assert main(["run", "--missing", "--dataset", "digits"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"failed   {tiny.parent.id(0)}: KeyError: 'bug'",
        f"failed   {tiny.id(0)}: a message",
    ]


def test_mnist_that_cannot_be_had_is_one_line_and_status_1(results, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setenv("WORKBOOK_DATA", str(results / "data"))
    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", fail)
    id = experiments.dense("mnist").id(0)
    assert main(["run", id, *ON_CPU]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"failed   {id}: MNIST is not in")
    assert "connect to the internet" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "lenet5-digit-dense"], "no experiment 'lenet5-digit-dense' in the catalogue"),
        (["run"], "or say --missing"),
        (["run", "lenet5-digits-dense", "--missing"], "or say --missing"),
        (["export", "out"], "no finished run of 'mnist' to export"),
        (["merge", "absent.zip"], "absent.zip is damaged, nothing was merged"),
        (["verify", "--dataset", "digits"], "no finished run of 'digits'"),
        (["verify", "lenet5-digits-dense"], "is not whole"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_status_1(results, refused, arguments, message):
    assert message in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["list", "--dataset", "svhn"], "invalid choice: 'svhn'"),
        (["run", "a", "--jobs", "0"], "must be 1 or more"),
        (["export", "out", "--since", "yesterday"], "invalid"),
        (["export", "out", "--since", "2030-01-01"], "needs a time zone"),
    ],
)
def test_what_makes_no_sense_is_status_2(results, capsys, arguments, message):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


def test_the_module_is_a_command(results):
    """Once as a process: the exit status, and no traceback for what a user does wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "lib", "run", "nonsense"],
        cwd=paths.ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: no experiment 'nonsense' in the catalogue")


# ----------------------------------------------------------------------- export, merge, verify


def test_export_then_merge(trained, results, said, refused, monkeypatch):
    arguments = ["export", results / "out", "--dataset", "digits", "--since"]
    assert "no finished run" in refused(*arguments, "2999-01-01T00:00+00:00")
    (line,) = said(*arguments, "2000-01-01T00:00+00:00")
    part = results / "out" / "runs-000.zip"
    assert line.startswith(f"{part}: ")
    assert said("merge", part) == ["0 new runs"]

    monkeypatch.setenv("WORKBOOK_RESULTS", str(results / "elsewhere"))
    *merged, last = said("merge", part)
    assert f"merged   {trained.id}" in merged
    assert last == "3 new runs"

    part.write_bytes(part.read_bytes()[:-1000])
    assert f"{part} is damaged, nothing was merged" in refused("merge", part)


def test_verify(trained, catalogue, tiny, said, capsys):
    lines = said("verify", "--dataset", "digits")
    assert sum(line.startswith("verified  tiny-") for line in lines) == 3
    result = trained.result | {"nominal_bits": 1}
    (trained.folder / "result.json").write_text(json.dumps(result))
    assert main(["verify", tiny.slug]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"differs  {trained.id}"
    assert second.strip().startswith("nominal_bits: 1 claimed")
