"""Two processes train as one does, hold the same tensors, and survive the death of one of them."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from torch import nn

from lib import networks, paths, training
from lib.data import load
from lib.optimizers import Method
from lib.training import Diverged, OutOfTime, Schedule, distributed
from lib.workbook import runs
from lib.workbook.cli import main
from lib.workbook.experiments import Experiment, Stage

SLUGS = ("dense", "joint", "lc", "df")

OPTIONS = {"device": "cpu", "threads": 1, "quiet": True}

#: 1,437 images: 22 steps of 64 and one of 29, which two processes share unevenly.
SGD = Schedule(epochs=2, lr=0.02, batch=64, warmup=1, weight_decay=5e-4)
ONCE = replace(SGD, epochs=1)


def experiment(slug, network, *stages, **fields):
    stages = tuple(
        Stage(method=method, schedule=schedule, options=options)
        for method, schedule, *options in stages
    )
    # a traced run has no control
    return Experiment(
        slug=slug, dataset="digits", network=network, stages=stages, trace=True, **fields
    )


DENSE = experiment("dense", "lenet300", ("sgd", SGD))
NORMALISED = experiment("normalised", "resnet8", ("sgd", replace(ONCE, lr=0.1, crop=2)))
ADMM = ("admm", SGD, ("budget", 42_000), ("periods_per_epoch", 2))
TUNED = ("tune-codebooks", ONCE)
LC = ("lc", SGD, ("cost", "l0-constraint"), ("amount", 0.1), ("mu", 0.01))
DF = ("df", ONCE, ("budget", 1_500_000), ("input_shape", (1, 16, 16)), ("step", 0.03))
EXPERIMENTS = {
    one.slug: one
    for one in (
        DENSE,
        NORMALISED,
        experiment("joint", "lenet300", ADMM, TUNED, parent=DENSE),
        experiment("lc", "lenet300", LC, parent=DENSE),
        experiment("df", "resnet8", DF, parent=NORMALISED),
        experiment("again", "lenet300", ADMM, TUNED, parent=DENSE, recipe=2),  # interrupted
        experiment("spoilt", "lenet300", ("spoilt", ONCE)),
    )
}


class Spoilt(Method):
    """A method that does not do the same on process 1: one weight is the next float."""

    def start(self, model):
        self.weight = model.fc1.weight.detach().view(-1)

    def after_period(self):
        if distributed.rank() == 1:
            self.weight[7] = torch.nextafter(self.weight[7], torch.tensor(9.0))


class Deadly(torch.optim.SGD):
    """One whose 33rd step kills: the tenth of the second epoch."""

    steps = 0

    def step(self, *args, **kwargs):
        Deadly.steps += 1
        if Deadly.steps == 23 + 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(*args, **kwargs)


def drive():
    """What torchrun starts: the command line, on the experiments here.

    The networks are kept as each process has them at the end. In its first life process 1 does not
    survive the experiment "again".
    """
    torch.set_num_threads(1)
    training.loop.CHECKPOINT_SECONDS = -1  # after every epoch
    results, rank = Path(os.environ["WORKBOOK_RESULTS"]), os.environ["RANK"]
    sys.modules["lib.workbook.experiments"].find = lambda name: [(EXPERIMENTS[name], 0)]
    runs.train.METHODS["spoilt"] = Spoilt
    train, write = runs.train._train, runs.train.write
    with (results / f"lives-{rank}").open("a") as file:
        file.write("x")
    mortal = rank == "1" and (results / "lives-1").read_text() == "x"

    def trained(experiment, *rest):
        if mortal and experiment.slug == "again":
            torch.optim.SGD = Deadly
        train(experiment, *rest)

    def kept(experiment, seed, before, model, *rest, **trained):
        torch.save(model.state_dict(), results / f"{experiment.slug}-{rank}.pt")
        write(experiment, seed, before, model, *rest, **trained)

    runs.train._train, runs.train.write = trained, kept
    sys.exit(main(["run", *sys.argv[1:], "--device", "cpu"]))


def torchrun(results, *arguments):
    """Two processes, which are started again once."""
    script = results / "driver.py"
    script.write_text("import test_distributed\ntest_distributed.drive()\n")
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "--max-restarts", "1", script, *arguments),
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(paths.ROOT), str(Path(__file__).parent)]),
            "WORKBOOK_RESULTS": str(results),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=900,
    )


def folder(results, slug):
    return results / "digits" / "runs" / EXPERIMENTS[slug].id(0)


def get(results, slug):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_RESULTS", str(results))
        return runs.get(EXPERIMENTS[slug], 0, **OPTIONS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By one process."""
    results = tmp_path_factory.mktemp("alone")
    torch.set_num_threads(1)
    for slug in SLUGS:
        get(results, slug)
    return results


@pytest.fixture(scope="module")
def together(alone, tmp_path_factory):
    """By two processes, df from the same network as alone; a death, and what cannot go on."""
    results = tmp_path_factory.mktemp("together")
    shutil.copytree(folder(alone, "normalised"), folder(results, "normalised"))
    done = torchrun(results, *SLUGS, "again", "spoilt")
    return results, done


@pytest.mark.parametrize("slug", SLUGS)
def test_two_processes_train_as_one(alone, together, slug):
    """To rounding. Two processes add a gradient in another order than one, and each kind of
    processor in an order of its own; a projection turns the last bits of a weight into a step,
    where it lies on a threshold. So what was projected may differ in a few weights of a thousand.
    """
    one, two = (runs.read(folder(results, slug)) for results in (alone, together[0]))
    assert (one.result["processes"], two.result["processes"]) == (1, 2)
    assert one.id == two.id
    # what the projections chose: weights kept and bits, filters and ranks
    chosen = ["name", "shape", "bits", "rank"]
    pd.testing.assert_frame_equal(one.layers[chosen], two.layers[chosen])
    assert two.layers["kept"].tolist() == pytest.approx(one.layers["kept"].tolist(), rel=2e-3)
    first, second = (run.history.drop(columns="seconds") for run in (one, two))
    projected = first.columns[first.columns.str.match(r"compressed_|mse|bits|.*[.]kept|kept_")]
    trained = first.columns.difference(projected)
    pd.testing.assert_frame_equal(first[trained], second[trained], rtol=2e-4, atol=2e-4)
    pd.testing.assert_frame_equal(
        first[projected], second[projected], rtol=5e-3, atol=5e-3, check_dtype=False
    )
    for name, tensor in one.state().items():
        other = two.state()[name]
        apart = (other - tensor).abs() > 1e-4 + 1e-3 * tensor.abs()
        assert apart.sum() <= 2e-3 * tensor.numel()
        assert ((other == 0) != (tensor == 0)).sum() <= 2e-3 * tensor.numel()
    same = {"macs", "parameters", "data_fingerprint", "epochs"}
    assert all(one.result[key] == two.result[key] for key in same)
    assert two.result["nominal_rate"] == pytest.approx(one.result["nominal_rate"], rel=2e-3)
    assert (one.correct != two.correct).sum() <= 2  # of 360
    # of the compressed network, so it comes after a projection too
    assert two.result["train_loss"] == pytest.approx(one.result["train_loss"], rel=5e-3)


@pytest.mark.parametrize("slug", SLUGS)
def test_both_processes_end_with_the_same_tensors(together, slug):
    first, second = (torch.load(together[0] / f"{slug}-{rank}.pt") for rank in (0, 1))
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_process_0_alone_speaks_and_writes(together):
    results, done = together
    said = [f"done     {EXPERIMENTS[slug].id(0)}" for slug in SLUGS]
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("done")] == [
        *(*said, *said),
        f"done     {EXPERIMENTS['again'].id(0)}",
    ]
    # what each computes in, once for each that is trained: "again" was begun twice
    others = [line for line in lines if not line.startswith("done")]
    begun = [*SLUGS, "again", "again", "spoilt"]
    assert sorted(line.split(":")[0] for line in others) == sorted(
        EXPERIMENTS[slug].id(0) for slug in begun
    )
    assert all(": float32 on " in line for line in others)
    # a bar each of dense, of lc, and of the first stage of joint and again
    assert len(re.findall(" 0/46 ", done.stderr)) == 4
    written = {file.name for file in (results / "digits" / "runs").iterdir()}
    assert written == {EXPERIMENTS[slug].id(0) for slug in (*SLUGS, "normalised", "again")}
    assert {file.suffix for file in (results / "checkpoints").iterdir()} == {".lock"}


def test_a_process_that_is_killed_starts_again_and_the_run_ends_as_it_would_have(together):
    results, _ = together
    assert [(results / f"lives-{rank}").read_text() for rank in (0, 1)] == ["xx", "xx"]
    killed, whole = folder(results, "again"), folder(results, "joint")
    histories = [pd.read_csv(run / "history.csv") for run in (killed, whole)]
    pd.testing.assert_frame_equal(*(h.drop(columns="seconds") for h in histories), check_exact=True)
    for name in ("layers.csv", "correct.npy", runs.store.WEIGHTS):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_process_whose_weights_differ_is_found_out(together):
    _, done = together
    assert done.returncode == 1
    assert "error: model.fc1.weight of process 1 is not that of process 0" in done.stderr


class Loop(training.loop._Loop):
    """One whose processes are all but this one imagined."""

    def __init__(self, network="lenet300", **schedule):
        model = networks.build(network, classes=10, channels=1)
        schedule = replace(SGD, **schedule)
        super().__init__(model, load("digits"), schedule, Method(), seed=0, stage=0)


@pytest.fixture
def pretend(monkeypatch):
    """Makes this process one of several."""

    def be(rank, processes):
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "processes", lambda: processes)
        monkeypatch.setattr(distributed, "parallel", lambda network: network)

    return be


@pytest.mark.parametrize(("images", "size", "processes"), [(20, 6, 2), (23, 5, 3), (7, 7, 7)])
def test_shares_of_each_step_are_the_step_and_their_weighted_means_its_mean(
    images, size, processes, pretend
):
    order = torch.randperm(images)
    loss = torch.rand(images, dtype=torch.float64)
    of = []
    for rank in range(processes):
        pretend(rank, processes)
        parts = distributed.share(order, size).split(len(distributed.of_step(size)))
        weights = [distributed.weight(len(step)) for step in order.split(size)]
        of.append(list(zip(parts, weights, strict=True)))
    for step, shares in zip(order.split(size), zip(*of, strict=True), strict=True):
        assert sorted(torch.cat([part for part, _ in shares])) == sorted(step)
        mean = sum(weight * loss[part].mean() for part, weight in shares) / processes
        torch.testing.assert_close(mean, loss[step].mean())


@pytest.mark.parametrize(("images", "processes"), [(1000, 3), (999, 4), (10, 2), (0, 2)])
def test_blocks_are_whole_batches_and_all_images(images, processes, pretend):
    found = []
    for rank in range(processes):
        pretend(rank, processes)
        block = distributed.block(images, 100)
        assert block.start % 100 == 0
        found += range(images)[block]
    assert found == list(range(images))


def test_every_process_draws_the_same_order_and_dropout_of_its_own(pretend):
    orders, seeds = [], []
    for rank in range(3):
        pretend(rank, 3 if rank else 1)
        orders.append(Loop()._order()[0])
        seeds.append(torch.initial_seed())
    assert torch.equal(orders[0], orders[1])
    assert torch.equal(orders[0], orders[2])
    assert len(set(seeds)) == 3


def test_a_step_with_fewer_images_than_processes_is_refused(pretend):
    pretend(0, 4)
    with pytest.raises(ValueError, match="a step of 1 images is too small for 4 processes"):
        Loop(batch=359)
    Loop(batch=360)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_a_digest_sees_one_bit_two_swapped_and_nothing_else(dtype):
    tensor = torch.arange(2 * distributed.CHUNK + 5).remainder(251).to(dtype)
    digest = distributed._digest(tensor)
    assert digest == distributed._digest(tensor.clone().view(-1, 1))
    for place in (0, 1, distributed.CHUNK, len(tensor) - 2):
        flipped, swapped = tensor.clone(), tensor.clone()
        flipped.view(torch.uint8)[place * tensor.element_size()] ^= 1
        swapped[[place, place + 1]] = tensor[[place + 1, place]]
        assert distributed._digest(flipped) != digest
        assert distributed._digest(swapped) != digest
    apart = tensor.roll(distributed.CHUNK)
    assert distributed._digest(apart) != digest


def test_what_is_compared_has_names():
    state = {"model": {"w": torch.ones(2)}, "adam": [torch.zeros(()), {"step": 3}], "none": None}
    assert list(dict(distributed._digests(state))) == ["model.w", "adam.0", "adam.1.step", "none"]


def test_an_error_of_one_process_ends_it_and_of_all_does_not(pretend, monkeypatch):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(runs.train, "get", fail)
    pretend(1, 2)
    for error in (Diverged("nan"), OutOfTime("late")):
        assert list(runs.parallel.run_all([(DENSE, 0)])) == [(DENSE.id(0), error)]
    error = ValueError("unreadable")
    with pytest.raises(ValueError, match="unreadable"):
        list(runs.parallel.run_all([(DENSE, 0)]))


@pytest.fixture
def elastic(monkeypatch):
    """The environment of a process of two that torchrun starts."""
    said = {"TORCHELASTIC_RUN_ID": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (said | {"RANK": "0", "LOCAL_RANK": "0"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "2"], "error: --jobs 2 is of no use under torchrun, whose processes"),
        (["--device", "cuda:1"], "error: device 'cuda:1': under torchrun each process has a GPU"),
    ],
)
def test_what_torchrun_cannot_do_is_one_line(elastic, capsys, options, message):
    assert main(["run", "lenet5-digits-dense", *options]) == 1
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_fewer_gpus_than_processes_are_refused(elastic, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ValueError, match="2 processes on a machine of 1 GPUs: use"),
        distributed.group("auto"),
    ):
        pass


def test_a_lock_is_asked_for_again_while_another_holds_it(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, "PATIENCE", 0.01)
    other, lock = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    tried = []

    def taken(asked):
        tried.append(taken_once(asked))
        other.release()
        return tried[-1]

    taken_once = distributed._taken
    monkeypatch.setattr(distributed, "_taken", taken)
    other.acquire()
    with distributed.held(lock):
        assert lock.is_locked
    assert tried == [False, True]
    assert not lock.is_locked


@pytest.mark.parametrize(("shared", "restarts"), [("True", "1"), ("False", "1"), ("True", "0")])
def test_several_machines_need_a_new_store_to_start_again(elastic, monkeypatch, shared, restarts):
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shared)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    store = object()
    if (shared, restarts) == ("True", "1"):
        with pytest.raises(ValueError, match="needs TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
            distributed._of_this_life(store)
    else:
        assert distributed._of_this_life(store) is store


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # of some other launcher
    tensor, network = torch.ones(2), nn.Linear(2, 2)
    with distributed.group("cuda:7"):
        assert (distributed.processes(), distributed.rank()) == (1, 0)
        assert distributed.total(tensor) is tensor
        assert distributed.parallel(network) is network
        assert distributed.share(tensor, 1) is tensor
