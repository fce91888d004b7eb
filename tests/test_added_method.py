"""A method and a cost that somebody adds, a line each in the registry: everything serves them."""

import shutil
from dataclasses import replace

import pytest
import torch

import lib
from lib import networks, training
from lib.layers import compressible
from lib.optimizers import LC, METHODS
from lib.optimizers.c_steps import COSTS, L0, Cost
from lib.projections import checks
from lib.projections.sparsity import l0_constraint
from lib.training import Method, Schedule, train
from lib.workbook import report, runs
from tests import methods
from tests.make_checkpoints import Interrupted, interrupted
from tests.optimizers import test_methods as contract

SCHEDULE = Schedule(epochs=3, lr=0.05, batch=64)


class ISTA(Method):
    """min ℓ(w) + λ‖w‖₁ by soft thresholding after each step; at last the largest ``keep`` stay."""

    STATE, takes = ("strength",), {"share": "keep"}

    def __init__(self, *, keep):
        checks.within("keep", keep, 0, 1)
        self.keep = keep

    def start(self, model):
        super().start(model)
        self.strength = torch.zeros((), device=self.w[0].device)  # λ

    @torch.no_grad()
    def after_step(self, lr):
        # w ← sign(w)·max(|w| − αλ, 0)
        for w in self.w:
            w.copy_(w.sign() * (w.abs() - lr * self.strength).clamp_min(0))

    @torch.no_grad()
    def after_period(self):
        self.strength += 0.005

    @torch.no_grad()
    def compressed(self):
        keep = int(self.keep * sum(w.numel() for w in self.w))
        return dict(zip(self.names, l0_constraint(self.w, keep=keep), strict=True))

    def finish(self):
        torch._foreach_copy_(self.w, list(self.compressed().values()))
        return True


def binary(w, bound, mu):
    """The nearest layers of one value and its negative."""
    return [x.abs().mean() * x.sign() for x in w]


@pytest.fixture(autouse=True)
def added(monkeypatch):
    monkeypatch.setitem(METHODS, "ista", ISTA)
    monkeypatch.setitem(COSTS, "binary", Cost(lambda group, amount: None, binary))
    monkeypatch.setattr(training.loop, "CHECKPOINT_SECONDS", -1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = networks.build("lenet300")
    train(model, methods.images(size=28), SCHEDULE, Method(), seed=0, quiet=True)
    return model


def kept(model):
    weights = compressible(model).values()
    return sum(int(w.count_nonzero()) for w in weights) / sum(w.numel() for w in weights)


def batches():
    data = methods.images(size=28)
    pixels, labels = data.normalise(data.train.images), data.train.labels
    return list(zip(pixels.split(24), labels.split(24), strict=True))


def test_it_keeps_to_the_contract():
    contract.test_a_run_resumed_is_the_run_that_was_not("ista", "")
    contract.test_a_state_is_taken_over_in_place("ista", "")


def experiment(tiny, method, **options):
    schedule = replace(tiny.stages[0].schedule, epochs=2)
    stage = replace(*tiny.stages, method=method, schedule=schedule, options=tuple(options.items()))
    return replace(tiny, slug=f"tiny-{method}", stages=(stage,), budget=None)


def test_it_is_an_experiment_interrupted_resumed_and_a_row(trained, tiny, tmp_path, monkeypatch):
    asked = experiment(tiny, "ista", keep=0.1)
    shutil.copytree(trained.folder.parents[1], tmp_path / "other" / "digits")
    options = {"device": "cpu", "threads": 1, "quiet": True}
    with pytest.raises(Interrupted), interrupted(1):
        runs.get(asked, 0, **options)
    resumed = runs.get(asked, 0, **options)
    assert kept(resumed.model()) <= 0.1
    row = report.imagenet.table_2([[resumed]], dataset="digits").iloc[-1]
    assert row["method"] == "ISTA (ours)"
    assert row["nonzero_percent"] <= 10
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path / "other"))
    whole = runs.get(asked, 0, **options)
    assert whole.folder != resumed.folder
    assert all(map(torch.equal, whole.state().values(), resumed.state().values()))


@pytest.mark.parametrize("method", ["ista", ISTA(keep=0.1)])
def test_it_serves_a_budget_by_its_name_and_as_an_object(method, model):
    found = lib.compress(model, batches(), "10 %", method=method, epochs=3, quiet=True)
    assert found.method == "ISTA"
    assert 0 < kept(found.model) <= 0.1


def test_an_object_that_misses_the_budget_is_refused(model):
    with pytest.raises(ValueError, match=r"ISTA left .*more than the 0.1 of the budget"):
        lib.compress(model, batches(), "10 %", method=ISTA(keep=0.2), epochs=2, quiet=True)


def test_a_name_that_takes_no_such_budget_is_refused_with_those_that_do(model):
    with pytest.raises(ValueError, match=r"'ista' takes no budget of bytes: choose one of admm$"):
        lib.compress(model, batches(), "10 kB", method="ista", quiet=True)
    with pytest.raises(ValueError, match=r"'no' takes .* choose one of magnitude, lc, ista$"):
        lib.compress(model, batches(), "10 %", method="no", quiet=True)


def test_layers_are_ignored_by_name_and_as_they_are(model):
    for ignored in (["fc3"], [model.get_submodule("fc3")]):
        found = lib.compress(
            model, batches(), "1 %", method="ista", ignored=ignored, epochs=2, quiet=True
        )
        assert found.model.get_submodule("fc3").weight.all()
        others = [found.model.get_submodule(name).weight for name in ("fc1", "fc2")]
        assert sum(w.count_nonzero() for w in others) <= 0.01 * sum(w.numel() for w in others)
        assert "fc3.weight" in found.left_alone
    assert not hasattr(model.get_submodule("fc3"), "ignored")
    with pytest.raises(ValueError, match=r"no layer 'fc4' to ignore: choose of fc1, fc2, fc3"):
        lib.compress(model, batches(), "1 %", ignored=["fc4"], quiet=True)


def test_an_added_cost_is_a_stage_s_and_a_layer_s(trained, tiny, model):
    run = runs.get(
        experiment(tiny, "lc", amount=None, cost="binary", scope="layer"),
        *(0,),
        **{"device": "cpu", "threads": 1, "quiet": True},
    )
    assert all(len(w.abs().unique()) == 1 for w in compressible(run.model()).values())
    mixed = LC({"fc1": COSTS["binary"](None), ("fc2", "fc3"): L0(0.05)}, growth=2)
    train(model, methods.images(size=28), SCHEDULE, mixed, seed=0, quiet=True)
    first, *others = compressible(model).values()
    assert len(first.abs().unique()) == 1
    total = sum(w.numel() for w in others)
    assert sum(int(w.count_nonzero()) for w in others) == int(0.05 * total)
