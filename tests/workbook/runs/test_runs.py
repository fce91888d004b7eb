"""Run folders are whole or absent, and a run that was interrupted is the run that was not."""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib import accounting, archive, data, networks, paths, training
from lib.data import load
from lib.layers import compressible
from lib.optimizers import MagnitudePruning
from lib.projections import svt
from lib.training import OutOfTime, Schedule, evaluate
from lib.workbook import runs
from lib.workbook.experiments import Experiment, Stage
from lib.workbook.runs import FILES, Damaged
from lib.workbook.runs.checkpoints import Checkpoint
from lib.workbook.runs.verify import verify
from tests.workbook.runs.test_checkpoints import flip

OPTIONS = {"device": "cpu", "threads": 1, "quiet": True}

#: What the drivers below begin with: a compression in two stages of two epochs, no parent.
PREAMBLE = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
from lib import training
from lib.workbook import runs
from lib.workbook.experiments import Experiment, Stage
from lib.training import Schedule

torch.set_num_threads(1)
training.loop.CHECKPOINT_SECONDS = -1  # after every epoch

whole = runs.train.data.load("digits")
few = runs.train.data.Split(whole.train.images[:368], whole.train.labels[:368])
few = replace(whole, train=few)  # six steps an epoch, the last one short
runs.train.data.load = lambda name, size, held_out: few

schedule = Schedule(epochs=2, lr=0.02, batch=64, warmup=1)
stages = (
    Stage(method="admm", schedule=schedule, options=(("budget", 68_880), ("start_bits", 2))),
    Stage(method="tune-codebooks", schedule=schedule),
)
experiment = Experiment(slug="killed", dataset="digits", network="lenet5", stages=stages)

def get():
    return runs.get(experiment, 0, device="cpu", threads=1, quiet=True)
"""

#: Each life is a process that a SIGKILL ends at one call of one function, except the last.
KILLED = """
def live(results, owner=None, name="", calls=0):
    child = os.fork()
    if child == 0:
        os.environ["WORKBOOK_RESULTS"] = results
        if owner:
            function, left = getattr(owner, name), [calls]
            def deadly(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)
            setattr(owner, name, deadly)
        get()
        os._exit(0)
    ended = os.waitpid(child, 0)[1]
    assert ended == (signal.SIGKILL if owner else 0), ended

whole, killed = sys.argv[1:]
def there(*files):
    folder = Path(killed, "checkpoints")
    names = {f.name.removeprefix(experiment.id(0)) for f in folder.iterdir()} - {".lock"}
    assert names == set(files), names
    assert not list(Path(killed).glob("digits/runs/killed*"))

live(whole)
live(killed, torch.optim.SGD, "step", 3)      # in the first epoch
there()
live(killed, torch.optim.SGD, "step", 6 + 4)  # in the second
there(".pt")
live(killed, torch.optim.SGD, "step", 6 + 2)  # in the second stage's first
there(".pt", ".previous.pt")
live(killed, os, "replace", 1)                # inside its checkpoint's two renames
there(".previous.pt", ".partial")
live(killed, os, "rename", 0)                 # all done but the folder's name
there(".pt", ".previous.pt")
live(killed)
"""

#: Two processes that both find nothing and both want the run.
RACE = """
folder = Path(sys.argv[1])
os.environ["WORKBOOK_RESULTS"] = str(folder)
train = runs.train._train
def counted(*args):
    with (folder / "trained").open("a") as file:
        file.write("once\\n")
    time.sleep(0.5)  # the other one arrives in the meantime
    train(*args)
runs.train._train = counted
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        get()
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


def drive(script, *arguments):
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + script, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def same(one, other):
    """The files that hold what was computed are the same, but for how long it took."""
    histories = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (one, other)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    for name in {*FILES, runs.store.WEIGHTS} - {"history.csv"}:
        assert (one / name).read_bytes() == (other / name).read_bytes()
    return True


@pytest.fixture(scope="session")
def slow(tiny):
    """An experiment of three epochs without a parent."""
    (stage,) = tiny.stages
    stage = replace(stage, schedule=replace(stage.schedule, epochs=3))
    return replace(tiny, slug="slow", parent=None, stages=(stage,))


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one each time that it is read: an epoch lasts four."""

    def restart():
        count = itertools.count()
        monkeypatch.setattr(training.loop, "time", SimpleNamespace(monotonic=count.__next__))

    return restart


@pytest.fixture
def interrupted(results, slow, clock):
    """``slow`` stopped by the time limit after its first epoch and after its second."""
    for epochs in (1, 2):
        clock()
        with pytest.raises(OutOfTime, match=f"stopped after {epochs} of 3 epochs"):
            runs.get(slow, 0, deadline=10, **OPTIONS)
        assert runs.status(slow, 0) == "partial"
    clock()
    return Checkpoint(slow.id(0))


@pytest.fixture(scope="module")
def uninterrupted(slow, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_RESULTS", str(tmp_path_factory.mktemp("uninterrupted")))
        return runs.get(slow, 0, **OPTIONS).folder


# ------------------------------------------------------------------------------ what a run is


def test_parent_and_control_are_trained_first_and_recorded(trained, tiny):
    parent, control = (runs.read(runs.folder_of(other, 0)) for other in (tiny.parent, tiny.control))
    assert trained.result["parent"] == parent.id
    assert trained.result["control"] == control.id
    assert trained.result["dense_accuracy"] == parent.result["accuracy"]
    assert trained.result["control_accuracy"] == control.result["accuracy"]
    assert control.result["parent"] == parent.id
    assert parent.result["parent"] is parent.result["control"] is None
    finished = [run.result["finished"] for run in (parent, control, trained)]
    assert finished == sorted(finished)


def test_a_result_holds_every_key(trained, tiny):
    for experiment in (tiny, tiny.parent, tiny.control):
        result = runs.read(runs.folder_of(experiment, 0)).result
        assert list(result) == [field.name for field in fields(runs.Result)]
    result = trained.result
    assert (result["method"], result["mode"], result["budget"]) == ("admm", "joint", 68_880)
    assert (result["epochs"], result["device"], result["threads"]) == (1, "cpu", 1)
    assert result["nominal_bits"] <= 68_880
    assert result["nominal_rate"] == pytest.approx(32 * 430_500 / result["nominal_bits"])
    parent = runs.read(runs.folder_of(tiny.parent, 0)).result
    assert (parent["method"], parent["mode"], parent["nominal_rate"]) == ("dense", None, 1.0)


def test_a_run_reads_back_what_it_computed(trained):
    data = load("digits")
    model = trained.model()
    assert not model.training
    _, accuracy = evaluate(model, data, data.test)
    assert accuracy == trained.result["accuracy"] == trained.correct.mean()
    assert len(trained.correct) == trained.result["images"] == 360
    layers = trained.layers.set_index("name")
    for name, weight in compressible(model).items():
        assert layers.loc[name, "kept"] == int(torch.count_nonzero(weight))
    assert layers["nominal_bits"].sum() == trained.result["nominal_bits"]
    assert trained.history["epoch"].tolist() == [1]


def test_training_starts_from_the_parents_weights(trained, tiny):
    (stage,) = tiny.parent.stages
    still = replace(stage, schedule=replace(stage.schedule, lr=0.0))
    still = replace(tiny, slug="still", mode=None, budget=None, stages=(still,))
    run = runs.get(still, 0, **OPTIONS)
    parent = runs.read(runs.folder_of(tiny.parent, 0))
    for mine, theirs in zip(run.model().parameters(), parent.model().parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_no_gpu_is_said_before_anything_is_trained(results, tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device 'cuda' was asked for but no GPU is visible"):
        runs.get(tiny, 0, device="cuda")
    assert not list(results.iterdir())


# ------------------------------------------------------------------------ whole or not at all


def test_the_file_is_of_the_final_network_and_says_which_run_it_is_of(trained):
    content = trained.file(trained.state())
    assert len(content) == trained.result["file_bytes"]
    found = archive.decode(content)
    model = found.model()
    for name, tensor in trained.model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    weights = hashlib.sha256((trained.folder / runs.store.WEIGHTS).read_bytes()).hexdigest()
    said = hashlib.sha256(f"{trained.id}\n{weights}".encode()).digest()
    assert found.provenance == said[:8]


def test_a_file_that_is_read_back_otherwise_is_refused(trained, monkeypatch):
    state = trained.state()
    wrong = state | {"fc2.bias": -state["fc2.bias"]}
    monkeypatch.setattr(archive, "decode", lambda content: archive.Archive(wrong))
    with pytest.raises(ValueError, match=f"the archive of {trained.id} does not hold its weights"):
        trained.file(state)


@pytest.mark.parametrize("name", [*FILES, runs.store.WEIGHTS, "result.json"])
def test_a_folder_without_one_of_its_files_is_damaged(trained, tiny, name):
    (trained.folder / name).unlink()
    with pytest.raises(Damaged, match=r"is not whole .* delete it to run it again"):
        runs.read(trained.folder)
    assert runs.status(tiny, 0) == "damaged"
    with pytest.raises(Damaged, match=tiny.id(0)):
        runs.get(tiny, 0, **OPTIONS)


@pytest.mark.parametrize("name", [*FILES, runs.store.WEIGHTS])
@pytest.mark.parametrize("place", [0, -1])
def test_a_folder_with_a_flipped_byte_is_damaged(trained, tiny, name, place):
    flip(trained.folder / name, place)
    with pytest.raises(Damaged, match=f"{name} is not the file that was written"):
        runs.read(trained.folder)
    assert runs.status(tiny, 0) == "damaged"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"1", b'"a"', b"null", b"{}", b'{"files": 1}', b"\xff\xfe"]
)
def test_a_torn_result_is_damaged(trained, tiny, content):
    (trained.folder / "result.json").write_bytes(content)
    with pytest.raises(Damaged):
        runs.read(trained.folder)
    assert runs.status(tiny, 0) == "damaged"


def test_a_folder_under_another_name_is_damaged(trained, tiny):
    other = trained.folder.rename(runs.folder_of(tiny, 1))
    with pytest.raises(Damaged, match="holds the run tiny-admm"):
        runs.read(other)


@pytest.mark.parametrize("written", range(6))
def test_a_write_that_fails_leaves_nothing_that_is_read(trained, tiny, monkeypatch, written):
    contents = {file.name: file.read_bytes() for file in trained.folder.iterdir()}
    folder = runs.folder_of(tiny, 5)
    left, write = [written], Path.write_bytes

    def full(file, content):
        if not left[0]:
            write(file, content[: len(content) // 2])
            raise OSError("no space left on device")
        left[0] -= 1
        write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            runs.store.install(folder, contents)
    assert runs.status(tiny, 5) == "missing"
    assert len(runs.finished("digits")) == 3  # and the half-written one is passed over
    runs.store.install(folder, contents)
    assert {file.name for file in folder.iterdir()} == {*FILES, runs.store.WEIGHTS, "result.json"}
    assert not list(folder.parent.glob(".*"))


def test_an_empty_folder_is_no_run(trained, tiny):
    runs.folder_of(tiny, 5).mkdir()
    assert runs.status(tiny, 5) == "missing"
    assert len(runs.finished("digits")) == 3
    contents = {file.name: file.read_bytes() for file in trained.folder.iterdir()}
    runs.store.install(runs.folder_of(tiny, 5), contents)


def test_status(trained, tiny):
    assert runs.status(tiny, 0) == "done"
    assert runs.status(tiny, 1) == "missing"
    raised = replace(tiny, recipe=2)
    assert runs.status(raised, 0) == "stale"
    assert runs.status(raised, 1) == "missing"
    assert runs.status(replace(tiny, slug="tiny", recipe=2), 0) == "missing"  # a prefix is not it
    # of a parent by another recipe too, but not what another experiment of that name has left
    parent = replace(tiny.parent, recipe=2)
    assert runs.status(replace(tiny, parent=parent), 0) == "stale"
    assert runs.status(replace(tiny, budget=tiny.budget + 1), 0) == "missing"
    checkpoint = Checkpoint(raised.id(0))
    checkpoint.file.parent.mkdir()
    checkpoint.save({})
    assert runs.status(raised, 0) == "partial"


# ------------------------------------------------------------------- found by hash and seed


def test_a_run_is_found_by_its_hash_whatever_its_slug(trained, tiny, monkeypatch):
    monkeypatch.setattr(runs.train, "_train", None)
    renamed = replace(tiny, slug="renamed-0.5x")
    assert runs.status(renamed, 0) == "done"
    assert runs.get(renamed, 0, **OPTIONS) == trained
    assert runs.folder_of(renamed, 1).name == renamed.id(1)  # another seed is another run
    assert runs.status(renamed, 1) == "missing"
    runs.store.install(runs.folder_of(tiny, 1), {"result.json": b"{}"})  # seen at once
    assert runs.folder_of(renamed, 1).name == tiny.id(1)


def test_a_run_that_is_there_twice_is_refused_by_both_names(trained, tiny):
    twin = trained.folder.with_name(f"twin-{trained.id.removeprefix(tiny.slug + '-')}")
    shutil.copytree(trained.folder, twin)
    with pytest.raises(ValueError, match=f"{trained.folder} and {twin} are one run"):
        runs.get(tiny, 0, **OPTIONS)
    assert runs.status(tiny, 0) == "damaged"


def test_every_committed_result_has_every_key_and_a_hash_of_its_own():
    keys = [field.name for field in fields(runs.Result)]
    files = list((paths.ROOT / "results" / "runs").glob("[!.]*/result.json"))
    assert all(list(json.loads(file.read_text())) == keys for file in files)
    assert len({tuple(file.parent.name.rsplit("-", 2)[1:]) for file in files}) == len(files)


# ---------------------------------------------------------------------------- interrupted runs


def test_killed_at_five_places_it_ends_as_the_run_that_was_not(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    drive(KILLED, whole, killed)
    (one,), (other,) = ((results / "digits" / "runs").iterdir() for results in (whole, killed))
    assert same(one, other)
    assert pd.read_csv(other / "history.csv")["stage"].tolist() == [0, 0, 1, 1]
    assert [file.suffix for file in (killed / "checkpoints").iterdir()] in ([".lock"], [])


def test_two_processes_that_want_the_same_run_train_it_once(tmp_path):
    drive(RACE, tmp_path)
    assert (tmp_path / "trained").read_text() == "once\n"
    (folder,) = (tmp_path / "digits" / "runs").iterdir()
    assert runs.read(folder).id == folder.name


def test_stopped_twice_by_the_time_limit(interrupted, slow, uninterrupted):
    run = runs.get(slow, 0, **OPTIONS)
    assert same(run.folder, uninterrupted)
    assert not interrupted.exists()


def test_a_checkpoint_under_an_older_slug_is_gone_on_with(interrupted, slow, uninterrupted):
    renamed = replace(slow, slug="renamed")
    assert runs.status(renamed, 0) == "partial"
    run = runs.get(renamed, 0, **OPTIONS)
    assert (run.folder.name, run.history["epoch"].tolist()) == (renamed.id(0), [1, 2, 3])
    weights = (folder / runs.store.WEIGHTS for folder in (run.folder, uninterrupted))
    assert len({file.read_bytes() for file in weights}) == 1
    assert not interrupted.exists()


def test_a_damaged_checkpoint_is_named_and_the_previous_one_used(interrupted, slow, uninterrupted):
    flip(interrupted.file)
    with pytest.warns(UserWarning, match=rf"{interrupted.file} is damaged and not used"):
        run = runs.get(slow, 0, **OPTIONS)
    assert same(run.folder, uninterrupted)


def test_a_run_names_what_trained_it_and_says_so(results, monkeypatch, clock):
    """Of three epochs in bfloat16, stopped after one, ended on a processor without it."""
    moved = experiment("moved", ("sgd", {}, {"epochs": 3, "precision": "bfloat16"}))
    lines = []
    for processor, has_bfloat16 in (("first", True), ("second", False)):
        there = {"processor": processor, "instructions": "some"}
        monkeypatch.setattr(runs.train.arithmetic, "machine", lambda device, there=there: there)
        monkeypatch.setattr(
            runs.train.arithmetic, "has_bfloat16", lambda kind, has=has_bfloat16: has
        )
        monkeypatch.setattr(runs.train, "commit", lambda name=processor: f"commit of {name}")
        clock()
        if processor == "first":
            with pytest.raises(OutOfTime):
                runs.get(moved, 0, deadline=10, **OPTIONS)
    run = runs.get(moved, 0, say=lines.append, **OPTIONS)
    first, second = run.result["trained_by"]
    assert first == {
        **{"commit": "commit of first", "computed_in": "bfloat16"},
        **{"processor": "first", "instructions": "some"},
    }
    assert (second["commit"], second["computed_in"]) == ("commit of second", "float32")
    assert run.computed_in == "bfloat16 and float32"
    assert run.result["commit"] == "commit of second"
    assert lines == [f"{run.id}: float32 on second, some"]


@pytest.mark.parametrize(("kind", "method"), [("cuda", "df"), ("cuda", "admm"), ("cpu", "df")])
def test_df_on_a_gpu_records_where_eigenproblems_are_solved(tiny, monkeypatch, kind, method):
    monkeypatch.setattr(runs.train.arithmetic, "has_bfloat16", lambda kind: True)
    monkeypatch.setattr(runs.train.arithmetic, "machine", lambda device: {})
    stages = (replace(tiny.stages[0], method=method),)
    here = runs.train._here(replace(tiny, stages=stages), torch.device(kind))
    asked = (kind, method) == ("cuda", "df")
    assert here.get("eigenproblems") == (svt.SOLVED_ON if asked else None)


# ------------------------------------------- what later stages and other runs hand to a method


class Interrupted(Exception):
    pass


@pytest.fixture
def few(results, monkeypatch):
    """Runs on 200 of the digits, each epoch of them with its checkpoint."""
    whole = load("digits")
    part = replace(whole, train=data.Split(whole.train.images[:200], whole.train.labels[:200]))
    monkeypatch.setattr(runs.train.data, "load", lambda name, size, held_out: part)
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", -1)
    yield
    runs.dataset_of.cache_clear()


SHORT = Schedule(epochs=2, lr=0.02, batch=64)


def experiment(slug, *stages, network="lenet300", **fields):
    """A stage is a method, its options, and what of its schedule is not ``SHORT``."""
    made = tuple(
        Stage(
            method=method,
            schedule=replace(SHORT, **dict(*other)),
            options=tuple(sorted(options.items())),
        )
        for method, options, *other in stages
    )
    return Experiment(slug=slug, dataset="digits", network=network, stages=made, **fields)


DENSE = experiment("dense", ("sgd", {}))
PRUNED = experiment(
    "pruned",
    ("magnitude", {"keep": (0.013, 0.27, 1.0), "scope": "layer"}),
    ("tune-codebooks", {"bits": (1, 3, 2)}),
    parent=DENSE,
    held_out=True,
)
TAKING = (("magnitude", {"keep": "like", "scope": "layer"}), ("tune-codebooks", {"bits": "like"}))
SEARCHED = experiment(
    "searched",
    ("black-box", {"budget": 50_000, "trials": 3}),
    parent=DENSE,
    budget=50_000,
    mode="search",
    held_out=True,
)
LIKE = experiment("like", *TAKING, parent=DENSE, like=PRUNED, held_out=True)
SCRATCH = experiment("scratch", ("held-zeros", {}), *TAKING[1:], like=PRUNED)
ADMM_OF_YE = experiment(
    "ye",
    ("lc", {"cost": "l0-constraint", "amount": (0.1, 0.2, 0.5), "scope": "layer", "mu": 0.1}),
    ("lc", {"cost": "codebook", "amount": (4, 4, 2), "scope": "layer", "mu": 0.1}),
)
RANDOM = experiment(
    "random", ("sgd", {}), ("magnitude", {"keep": 0.1, "order": "random", "epochs": 1})
)
SMALLER = {"budget": 60_000, "input_shape": (1, 28, 28)}
BUILT = experiment(
    "built",
    ("df", SMALLER | {"statistics": "batch", "step": 0.1, "periods_per_epoch": 4}),
    ("sgd", {}),
    parent=DENSE,
    budget=60_000,
    budget_in="macs",
)
AT_ONCE = experiment(
    "at-once",
    ("low-rank", SMALLER, {"epochs": 0}),
    ("sgd", {}),
    parent=DENSE,
    budget=60_000,
    budget_in="macs",
)
NORMAL = experiment(
    "normal",
    (
        *("admm", {"budget": 100_000, "growth": 2.0, "rho": 0.01}),
        {"epochs": 3, "crop": 1, "flip": True, "precision": "bfloat16"},
    ),
    network="resnet8",
)
BUILT_ANEW = experiment("built-anew", ("sgd", {}), like=AT_ONCE)


@pytest.mark.parametrize(
    ("interrupted_run", "epochs"),
    [
        (ADMM_OF_YE, 1),
        (BUILT, 1),
        (BUILT_ANEW, 1),
        (RANDOM, 1),
        (SCRATCH, 1),
        (NORMAL, 1),
        (replace(LIKE, like=SEARCHED), 2),  # a trial of the search is done whole, or again
    ],
    ids=["ye", "df", "built-anew", "random", "scratch", "normal", "searched"],
)
def test_interrupted_after_every_so_many_epochs_it_is_the_run_that_was_not(
    few, tmp_path, monkeypatch, interrupted_run, epochs
):
    """Its parent, and what is taken over, are trained and interrupted with it."""
    run_epoch = training.loop._Loop.run_epoch
    left = [0]

    def once(*args):
        if left[0] == 0:
            raise Interrupted
        left[0] -= 1
        return run_epoch(*args)

    folders, interruptions = [], 0
    monkeypatch.setattr(training.loop._Loop, "run_epoch", once)
    for name, most in (("whole", 10**6), ("interrupted", epochs)):
        monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path / name))
        while len(folders) < 1 + (name == "interrupted"):
            left[0] = most
            try:
                folders.append(runs.get(interrupted_run, 0, **OPTIONS).folder)
            except Interrupted:
                interruptions += 1
    assert interruptions >= interrupted_run.epochs / epochs - 1
    assert same(*folders)


def test_a_run_holds_the_network_that_was_built(few):
    """Its shapes come with its weights; one like it has them, and weights of its own."""
    run = runs.get(AT_ONCE, 0, **OPTIONS)
    assert run.result["macs"] <= 60_000 < run.result["dense_macs"] == 266_200
    assert run.result["budget_in"] == "macs"
    assert verify(run) == []
    model = run.model()
    assert accounting.macs(model, (1, 28, 28)) == run.result["macs"]
    ranks = run.layers.dropna(subset="rank")
    names = [f"{layer}.{i}" for layer in ("fc1", "fc2", "fc3") for i in (0, 1)]
    assert ranks["name"].tolist() == names
    first = [len(model.get_submodule(name).weight) for name in names[::2]]
    assert ranks["rank"].tolist() == [rank for rank in first for _ in range(2)]
    other = runs.get(BUILT_ANEW, 0, **OPTIONS).model()
    assert [p.shape for p in other.parameters()] == [p.shape for p in model.parameters()]
    assert not torch.equal(other.fc1[0].weight, model.fc1[0].weight)
    run.result["budget"] = 1
    assert any("macs exceed the budget of 1" in problem for problem in verify(run))


def of_layers(kept, weights, bits=None):
    """As much of a run as what its layers keep."""
    bits = [1] * len(kept) if bits is None else bits
    return SimpleNamespace(layers=pd.DataFrame({"kept": kept, "weights": weights, "bits": bits}))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 49, 97, 100, 107, 235_200, 2_359_296])
def test_the_share_taken_over_is_as_many_weights_again(n):
    """Also where k/n rounds so badly that n times it is less than k."""
    kept = range(n + 1) if n < 1000 else [*range(300), *range(n // 2, n // 2 + 300), n - 1, n]
    kept = list(kept)
    (stage,) = experiment("a", TAKING[0]).stages
    shares = runs.train._options(stage, of_layers(kept, [n] * len(kept)))["keep"]
    assert [int(share * n) for share in shares] == kept
    assert all(0 <= share <= 1 for share in shares)
    naive = [int(k / n * n) for k in kept]
    assert n != 49 or naive != kept  # that is what it is for


def test_a_network_pruned_like_another_keeps_as_many_in_each_layer():
    torch.manual_seed(0)
    model = networks.build("lenet5")
    weights = [w.numel() for w in compressible(model).values()]
    kept = [499, 17_001, 0, 5_000]
    like = of_layers(kept, weights, bits=[3, 1, 1, 8])
    pruning, tuning = experiment("a", *TAKING).stages
    MagnitudePruning(**runs.train._options(pruning, like)).start(model)
    assert [int(w.count_nonzero()) for w in compressible(model).values()] == kept
    assert runs.train._options(tuning, like) == {"bits": [3, 1, 1, 8]}


def test_options_that_name_no_other_run_are_left_alone():
    (stage,) = PRUNED.stages[:1]
    assert runs.train._options(stage, None) == dict(stage.options)
    with pytest.raises(ValueError, match=r"'magnitude' asks for another run's rates: say which"):
        runs.train._options(LIKE.stages[0], None)


def test_a_run_like_another_has_its_counts_and_bits_and_weights_of_its_own(few):
    run, other = runs.get(LIKE, 0, **OPTIONS), runs.read(runs.folder_of(PRUNED, 0))
    assert run.layers["kept"].tolist() == other.layers["kept"].tolist()
    assert run.layers["kept"].tolist() == [int(0.013 * 235_200), 8_100, 1_000]
    assert run.layers["bits"].tolist() == other.layers["bits"].tolist() == [1, 3, 2]
    # what it was pruned from is the dense network, as for the other
    assert run.result["parent"] == other.result["parent"] == f"{DENSE.name}-s0"


def test_from_scratch_another_runs_zeros_are_taken_over(few):
    run, other = runs.get(SCRATCH, 0, **OPTIONS), runs.read(runs.folder_of(PRUNED, 0))
    mine, theirs = (compressible(each.model()) for each in (run, other))
    for name, weight in mine.items():
        assert torch.equal(weight == 0, theirs[name] == 0)
        assert not torch.equal(weight, theirs[name])
    assert run.layers["bits"].tolist() == [1, 3, 2]
    assert run.result["parent"] is run.result["control"] is run.result["dense_accuracy"] is None
    assert run.history["fc1.kept"].tolist() == [int(0.013 * 235_200)] * 4


def test_a_search_is_recorded_trial_by_trial(few):
    run = runs.get(SEARCHED, 0, **OPTIONS)
    history = run.history
    assert history["trial"].tolist() == [1, 2, 3]
    assert run.result["held_out_accuracy"] == history["test_accuracy"].max()
    assert run.result["nominal_bits"] <= run.result["budget"] == 50_000
    assert run.result["epochs"] == SEARCHED.epochs == 6
    assert (run.result["method"], run.result["control"]) == ("black-box", None)
    assert verify(run) == []


# ------------------------------------------------------------------ weights that stay at home


def test_the_weights_of_a_control_lie_apart(few):
    """Nothing starts from it; what it starts from, and what is compressed, keep theirs."""
    run = runs.get(AT_ONCE, 0, **OPTIONS)
    control = runs.get(AT_ONCE.control, 0, **OPTIONS)
    start = runs.get(DENSE, 0, **OPTIONS)
    assert control.result["weights_apart"]
    assert not verify(control)
    assert not run.result["weights_apart"]
    assert not start.result["weights_apart"]
    assert runs.result._is_control(replace(DENSE, held_out=True))


def test_large_weights_lie_apart_and_are_trained_again_for_a_child(results, tiny, monkeypatch):
    monkeypatch.setattr(runs.store, "MOST_BYTES", 0)
    first = runs.get(tiny.parent, 0, **OPTIONS)
    assert not (first.folder / runs.store.WEIGHTS).exists()
    assert first.weights == results / "digits" / "weights" / f"{first.id}.safetensors"
    assert first.result["weights_apart"]
    assert not verify(first)
    content = first.weights.read_bytes()
    first.weights.write_bytes(content[:-1])
    with pytest.raises(runs.Damaged, match="not the file that was written"):
        runs.read(first.folder)

    first.weights.unlink()
    again = runs.get(tiny.parent, 0, **OPTIONS)
    assert again.result == first.result  # read, not trained
    assert runs.status(tiny.parent, 0) == "done"
    with pytest.raises(runs.Damaged, match="not committed"):
        again.model()
    runs.get(tiny, 0, **OPTIONS)
    assert first.weights.read_bytes() == content
