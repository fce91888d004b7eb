"""The black-box search: within its budget, repeatable, and the best trial's network is left."""

import copy
import io
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
import torch

import lib.workbook.runs.search
from lib import networks
from lib.accounting import nominal_bits
from lib.data import Split, load
from lib.layers import compressible
from lib.optimizers import CodebookTuning, MagnitudePruning, Method
from lib.training import Diverged, OutOfTime, Schedule, evaluate, train
from lib.workbook.runs.search import BITS, DENSITIES, BlackBox, search

BUDGET = 100_000
SCHEDULE = Schedule(epochs=1, lr=0.02, batch=64)
NAMES = ("fc1", "fc2", "fc3")
SIZES = (784 * 300, 300 * 100, 100 * 10)


@pytest.fixture(scope="module")
def data():
    """A part of digits' held-out split: trials of some hundredths of a second."""
    whole = load("digits", held_out=True)
    return replace(whole, train=Split(whole.train.images[:256], whole.train.labels[:256]))


@pytest.fixture(scope="module")
def dense(data):
    torch.manual_seed(0)
    model = networks.build("lenet300")
    train(model, data, replace(SCHEDULE, epochs=8), Method(), seed=0, quiet=True)
    return model


def searched(data, dense, *, trials=4, budget=BUDGET, seed=0, **kwargs):
    model = copy.deepcopy(dense)
    method = BlackBox(budget=budget, trials=trials)
    history = search(model, data, SCHEDULE, method, seed=seed, quiet=True, **kwargs)
    return model, history


def measured(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def same(model, other):
    return all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


@pytest.fixture(scope="module")
def whole(data, dense):
    """A search of twelve trials, two of them by what was learned, and its states as on disk."""
    files = []

    def save(state):
        files.append(io.BytesIO())
        torch.save(state, files[-1])

    model, history = searched(data, dense, trials=12, save=save)
    return model, history, [file.getvalue() for file in files]


def test_every_trial_spends_the_budget_and_no_more(whole):
    _, history, _ = whole
    assert [row["trial"] for row in history] == list(range(1, 13))
    for row in history:
        keep, bits = ([row[f"{name}.{kind}"] for name in NAMES] for kind in ("keep", "bits"))
        assert all(0 < share <= 1 for share in keep)
        assert all(b in range(BITS[0], BITS[1] + 1) for b in bits)
        spent = sum(k * n * b for k, n, b in zip(keep, SIZES, bits, strict=True))
        assert spent == pytest.approx(BUDGET)
        whole_weights = sum(int(k * n) * b for k, n, b in zip(keep, SIZES, bits, strict=True))
        assert BUDGET - sum(bits) <= whole_weights <= BUDGET


def test_the_best_trials_network_is_left(whole, data, dense):
    """And it is what its row says: so pruned, so trained, so quantized."""
    model, history, _ = whole
    best = max(history, key=lambda row: row["test_accuracy"])  # the first of equals
    assert evaluate(model, data, data.test) == (best["test_loss"], best["test_accuracy"])
    again = copy.deepcopy(dense)
    keep, bits = ([best[f"{name}.{kind}"] for name in NAMES] for kind in ("keep", "bits"))
    pruning = MagnitudePruning(keep=keep, scope="layer")
    (row,) = train(again, data, SCHEDULE, pruning, seed=0, quiet=True)
    assert row["train_loss"] == best["train_loss"]
    CodebookTuning(bits=bits).start(again)
    assert same(again, model)
    kept = [int(w.count_nonzero()) for w in compressible(model).values()]
    assert kept == [int(k * n) for k, n in zip(keep, SIZES, strict=True)]
    assert nominal_bits(compressible(model)) <= BUDGET


def test_the_first_of_equally_good_trials_stays(data, dense, monkeypatch):
    accuracies = iter([0.5, 0.7, 0.7, 0.6])
    seen = []

    def told(candidate, dataset, split):
        seen.append(copy.deepcopy(candidate))
        return 1.0, next(accuracies)

    monkeypatch.setattr(lib.workbook.runs.search, "evaluate", told)
    model, history = searched(data, dense)
    assert [row["test_accuracy"] for row in history] == [0.5, 0.7, 0.7, 0.6]
    assert same(model, seen[1])
    assert not same(model, seen[2])


def test_it_is_the_same_again_and_another_by_another_seed(whole, data, dense):
    _, history, _ = whole
    torch.manual_seed(99)
    _, again = searched(data, dense)
    assert measured(again) == measured(history[:4])
    _, other = searched(data, dense, seed=1)
    assert all(a["fc1.keep"] != b["fc1.keep"] for a, b in zip(again, other, strict=True))


@pytest.mark.parametrize("trials", [1, 2, 9, 10, 11, 12])
def test_a_search_resumed_is_the_search_that_was_not(whole, data, dense, trials):
    model, history, files = whole
    assert len(files) == 12
    state = torch.load(io.BytesIO(files[trials - 1]), weights_only=True)
    assert len(state["history"]) == trials
    torch.manual_seed(trials)
    resumed, again = searched(data, dense, trials=12, resume=state)
    assert measured(again) == measured(history)
    assert same(resumed, model)


def test_nothing_of_what_is_given_is_changed_until_the_end(data, dense):
    model = copy.deepcopy(dense)
    kept = []
    search(
        model,
        data,
        SCHEDULE,
        BlackBox(budget=BUDGET, trials=2),
        seed=0,
        save=lambda state: kept.append(same(model, dense)),
        quiet=True,
    )
    assert kept == [True, True]
    assert not same(model, dense)


def test_out_of_time_leaves_what_was_found_and_goes_on(data, dense, whole, monkeypatch):
    """By a clock that goes on by one each time that it is read: a trial lasts two."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__)
    monkeypatch.setattr(lib.workbook.runs.search, "time", clock)
    states = []
    with pytest.raises(OutOfTime, match="stopped after 2 of 4 trials"):
        searched(data, dense, save=lambda s: states.append(copy.deepcopy(s)), deadline=7)
    assert len(states) == 2
    monkeypatch.undo()
    _, history = searched(data, dense, resume=states[-1])
    assert measured(history) == measured(whole[1][:4])


def test_a_trial_that_diverges_is_said(data, dense):
    model, method = copy.deepcopy(dense), BlackBox(budget=BUDGET, trials=2)
    with pytest.raises(Diverged, match="lower the learning rate"):
        search(model, data, replace(SCHEDULE, lr=1e30), method, seed=0, quiet=True)


def test_a_budget_of_nothing_and_one_of_everything(data, dense):
    model, (row, *_) = searched(data, dense, trials=1, budget=0)
    assert [row[f"{name}.keep"] for name in NAMES] == [0, 0, 0]
    assert not any(w.any() for w in compressible(model).values())
    model, (row, *_) = searched(data, dense, trials=1, budget=6 * sum(SIZES))
    assert [row[f"{name}.keep"] for name in NAMES] == [1, 1, 1]
    assert nominal_bits(compressible(model)) <= 6 * sum(SIZES)


# ----------------------------------------------------------------------------- what is tried next


def suggested(trials, seed=0):
    return lib.workbook.runs.search._suggest(
        dict(zip(NAMES, SIZES, strict=True)), trials, seed=seed
    )


def test_what_is_suggested_is_in_range():
    for seed in range(30):
        drawn = suggested([], seed)
        assert set(drawn) == {f"{name}.{kind}" for name in NAMES for kind in ("density", "bits")}
        for name in NAMES:
            assert DENSITIES[0] <= drawn[f"{name}.density"] <= DENSITIES[1]
            assert drawn[f"{name}.bits"] in range(BITS[0], BITS[1] + 1)


def test_the_first_ten_are_drawn_and_the_others_learned():
    """TPE's own start: until ten are known it draws, whatever they were worth."""
    known = [(suggested([], seed), float(seed)) for seed in range(12)]
    turned = [(drawn, -worth) for drawn, worth in known]
    assert suggested(known[:9]) == suggested(turned[:9]) == suggested([])
    assert suggested(known) != suggested(turned)
    assert suggested(known) == suggested(known)


def test_nothing_is_written_and_no_warning_is_raised(capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    suggested([])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "value"), [("budget", -1), ("budget", math.nan), ("trials", 0), ("trials", 2.5)]
)
def test_numbers_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = {value} must be"):
        BlackBox(**({"budget": 1, "trials": 1} | {name: value}))
