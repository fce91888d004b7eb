"""Training that is long: rehearsed before, kept when it is interrupted or killed, gone on with."""

import re
import signal
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lib
from lib import archive
from lib.compression.job import Job
from lib.layers import compressible
from lib.optimizers import METHODS, MagnitudePruning
from lib.training import loop

WEIGHTS = 16 * 32 + 32 * 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def net():
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def cnn():
    torch.manual_seed(5)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128, 4)),
    )


def batches(*shape):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(64, *(shape or (16,)), generator=generator)
    targets = torch.randint(0, 4, (64,), generator=generator)
    return list(zip(inputs.split(16), targets.split(16), strict=True))


def smaller(model, data, budget, **options):
    return lib.compress(model, data, budget, **{"epochs": 6, "quiet": True} | options)


class Interrupting:
    """Data that are interrupted in one pass of many, by an exception of its own or by Ctrl-C."""

    def __init__(self, data, at, error=KeyboardInterrupt):
        self.data, self.at, self.error, self.passes = data, at, error, 0

    def __len__(self):
        return len(self.data)

    def __iter__(self):
        self.passes += 1
        for i, batch in enumerate(self.data):
            if self.passes == self.at and i == 2:
                raise self.error
            yield batch


def passes_before_training(model, budget, **options):
    """How often the data are read before the first epoch."""
    data, found = Interrupting(batches(), 0), []

    def begin(*_, **__):
        found.append(data.passes)
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        carry_out = Job.carry_out
        real = lambda self, said, *rest: (carry_out if said == "" else begin)(self, said, *rest)  # noqa: E731
        patch.setattr(Job, "carry_out", real)
        with pytest.raises(ZeroDivisionError):
            smaller(model, data, budget, **options)
    return found[0]


# --------------------------------------------------------------------------- known before training


def first_epoch_is_never_reached(monkeypatch):
    """Only what is rehearsed may train."""
    carry_out = Job.carry_out

    def only_rehearsed(self, said, *rest):
        assert said == "", "the first epoch was reached"
        return carry_out(self, said, *rest)

    monkeypatch.setattr(Job, "carry_out", only_rehearsed)


class Failing(MagnitudePruning):
    def finish(self):
        raise RuntimeError("no luck\nat all")


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()
        self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": Failing(keep=0.1)}, "a rehearsal on the first batch fails: no luck"),
        ({"model": Complex()}, "phase is a torch.strided tensor of complex64"),
        ({"described": {"network": "lenet301", "classes": 4, "channels": 1}}, "lenet301"),
        ({"budget": ["30 %", "1000 bits", "1 B"]}, "a file of 1 bytes is impossible"),
        ({"budget": ["900 B", "800 B"], "method": "lc"}, "'lc' takes no budget of bytes"),
        ({"lr": 0}, "lr = 0"),
        ({"weight_decay": -1}, "weight_decay = -1"),
        ({"checkpoint": "/no/such/folder/run"}, "there is no folder /no/such/folder"),
    ],
)
def test_what_comes_after_training_is_rehearsed(options, message, monkeypatch):
    first_epoch_is_never_reached(monkeypatch)
    model, budget = options.pop("model", None) or net(), options.pop("budget", "30 %")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        smaller(model, batches(), budget, **options)
    assert "\n" not in str(caught.value)


def test_random_numbers_are_left_as_they_were_but_for_one_draw():
    torch.manual_seed(7)
    torch.randint(2**31, ())
    after = torch.rand(3)
    torch.manual_seed(7)
    smaller(model := net(), batches(), "30 %", seed=1)
    torch.manual_seed(7)
    smaller(model, batches(), "30 %")
    assert torch.equal(torch.rand(3), after)


def test_a_seed_repeats_whatever_was_drawn_before():
    found = []
    for before in (3, 4):
        torch.manual_seed(before)
        data = DataLoader(
            TensorDataset(torch.arange(32.0)[:, None].expand(32, 16), torch.arange(32) % 4),
            8,
            shuffle=True,
        )
        found.append(smaller(net(), data, "500 bits", seed=11).content)
    assert found[0] == found[1]
    assert smaller(net(), batches(), "500 bits", seed=12).content != found[0]


# ---------------------------------------------------------------------------------- a list of them


def test_budgets_that_are_done_stay_where_one_fails(monkeypatch):
    carry_out = Job.carry_out

    def failing(self, said, *rest):
        if said == "20 %":
            raise ValueError("the loss was nan")
        return carry_out(self, said, *rest)

    monkeypatch.setattr(Job, "carry_out", failing)
    with pytest.warns(UserWarning, match="the budget 20 % failed: the loss was nan"):
        found = smaller(net(), batches(), ["30 %", "20 %", "10 %"])
    assert [one.budget for one in found] == ["30 %", "10 %"]
    warnings.simplefilter("ignore")
    with pytest.raises(ValueError, match="nan"):
        smaller(net(), batches(), ["20 %"])


@pytest.mark.parametrize("budget", ["10 %", "700 bits"])
@pytest.mark.parametrize("epoch", [1, 3, 5])
def test_ctrl_c_gives_back_what_there_is_within_the_budget(budget, epoch):
    model = net()
    at = passes_before_training(model, budget) + epoch
    found = smaller(model, Interrupting(batches(), at), budget)
    assert found.interrupted
    assert found.notes
    assert found.notes[0].startswith(f"interrupted in {budget}")
    assert found.notes[0] in str(found)
    assert 0 < found.after["kept"] < WEIGHTS
    assert torch.equal(archive.decode(found.content).state["0.weight"], found.model[0].weight)


def test_ctrl_c_in_a_list_gives_back_those_that_are_done():
    model, budget = net(), ["30 %", "20 %", "10 %"]
    whole = passes_before_training(model, budget) + 6 + 1  # of the first, and a last measurement
    found = smaller(model, Interrupting(batches(), whole + 3), budget)
    assert [one.budget for one in found] == ["30 %", "20 %"]
    assert [one.interrupted for one in found] == [False, True]


# ------------------------------------------------------------------------------------- checkpoints

CALLS = {
    "10 %": (net, batches, {}),
    "10 % lc": (net, batches, {"method": "lc"}),
    "700 bits": (net, batches, {}),
    "700 B": (net, batches, {"method": "admm"}),
    "2000 MACs df": (cnn, lambda: batches(1, 8, 8), {"method": "df"}),
    "2000 MACs l1": (cnn, lambda: batches(1, 8, 8), {"method": "l1"}),
}


class Killed(Exception):
    """Stands for a kill: nothing is finished or saved."""


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("epoch", [2, 4, 6])
def test_a_killed_call_goes_on_to_the_same_weights(call, epoch, tmp_path, monkeypatch):
    model, data, options = CALLS[call]
    budget = call.removesuffix(" lc").removesuffix(" df").removesuffix(" l1")
    whole = smaller(model(), data(), budget, seed=2, **options)
    run_epoch, epochs = loop._Loop.run_epoch, []

    def killed(self, bar):
        if self.steps > 1:  # not in the rehearsal
            epochs.append(self.epoch)
            if len(epochs) == epoch:
                raise Killed
        return run_epoch(self, bar)

    options = options | {"seed": 2, "checkpoint": tmp_path / "run"}
    monkeypatch.setattr(loop._Loop, "run_epoch", killed)
    with pytest.raises(Killed):
        smaller(model(), data(), budget, **options)
    done = len(epochs) - 1
    epochs.clear()
    monkeypatch.setattr(
        loop._Loop, "run_epoch", lambda self, bar: epochs.append(0) or run_epoch(self, bar)
    )
    resumed = smaller(model(), data(), budget, **options)
    assert resumed.content == whole.content
    rehearsed = 2
    assert len(epochs) - rehearsed == 6 - done
    again = smaller(model(), data(), budget, **options)
    assert again.content == whole.content


def test_a_seed_that_was_drawn_is_the_checkpoint_s(tmp_path):
    first = smaller(net(), batches(), "700 bits", checkpoint=tmp_path / "run")
    torch.manual_seed(99)
    assert (
        smaller(net(), batches(), "700 bits", checkpoint=tmp_path / "run").content == first.content
    )


def test_a_loader_with_a_generator_of_its_own_goes_on_too(tmp_path):
    data = TensorDataset(torch.cat([x for x, _ in batches()]), torch.cat([y for _, y in batches()]))

    def loader():
        return DataLoader(data, 16, shuffle=True, generator=torch.Generator().manual_seed(8))

    whole = smaller(net(), loader(), "700 bits", seed=1, checkpoint=tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        after_period, calls = METHODS["admm"].after_period, []

        def killed(self):
            calls.append(0)
            if len(calls) == 4:
                raise Killed
            after_period(self)

        patch.setattr(METHODS["admm"], "after_period", killed)
        with pytest.raises(Killed):
            smaller(net(), loader(), "700 bits", seed=1, checkpoint=tmp_path / "run")
    resumed = smaller(net(), loader(), "700 bits", seed=1, checkpoint=tmp_path / "run")
    assert resumed.content == whole.content


def test_a_list_has_a_checkpoint_each(tmp_path):
    budgets = ["30 %", "10 %"]
    found = smaller(net(), batches(), budgets, seed=1, checkpoint=tmp_path / "run")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.1", "run.2"]
    again = smaller(net(), batches(), budgets, seed=1, checkpoint=tmp_path / "run")
    assert [one.content for one in again] == [one.content for one in found]


def test_a_checkpoint_of_another_call_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "run"
    smaller(net(), batches(), "30 %", seed=1, checkpoint=path)
    for other in ({"seed": 2}, {"epochs": 7}, {"budget": "20 %"}, {"method": "lc"}, {"lr": 0.2}):
        options = {"seed": 1, "checkpoint": path, "budget": "30 %"} | other
        with pytest.raises(ValueError, match="checkpoint of another call"):
            smaller(net(), batches(), options.pop("budget"), **options)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"is no checkpoint of lib\.compress: delete it"):
        smaller(net(), batches(), "30 %", seed=1, checkpoint=path)


KILLED = """
import os, signal, sys, torch, lib
from torch import nn
from tests.compression.test_own_training import batches, net
from lib.training import loop
run, epochs = loop._Loop.run_epoch, []
def run_epoch(self, bar):
    if self.steps > 1:
        epochs.append(0)
        if len(epochs) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
    return run(self, bar)
loop._Loop.run_epoch = run_epoch
lib.compress(net(), batches(), "700 bits", epochs=6, quiet=True, seed=2, checkpoint=sys.argv[1])
"""


def test_a_process_that_is_killed(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "run")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    resumed = smaller(net(), batches(), "700 bits", seed=2, checkpoint=tmp_path / "run")
    assert resumed.content == smaller(net(), batches(), "700 bits", seed=2).content


# ------------------------------------------------------------------------------- how it is trained


@pytest.mark.parametrize("method", ["l1", "group-magnitude"])
def test_a_method_that_chooses_at_once_cuts_before_it_trains(method, monkeypatch):
    trained = []
    run_epoch = loop._Loop.run_epoch

    def noted(self, bar):
        if self.steps > 1:
            weights = compressible(self.model).values()
            trained.append((sum(w.numel() for w in weights), self.schedule))
        return run_epoch(self, bar)

    monkeypatch.setattr(loop._Loop, "run_epoch", noted)
    model = cnn()
    found = smaller(model, batches(1, 8, 8), "2000 MACs", method=method, lr=0.05)
    left = sum(w.numel() for w in compressible(found.model).values())
    assert [count for count, _ in trained] == [left] * 6
    assert left < sum(w.numel() for w in compressible(model).values())
    assert trained[0][1].lr == 0.05


def test_the_bar_shows_the_loss(capsys):
    smaller(net(), batches(), "30 %", quiet=False)
    assert re.search(r"loss=\d\.\d{4}", capsys.readouterr().err)
