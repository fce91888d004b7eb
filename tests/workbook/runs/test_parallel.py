"""Runs in order, side by side, each failure its own."""

import math
from dataclasses import replace

import pytest

from lib.training import Diverged
from lib.workbook import runs
from lib.workbook.experiments import Stage

OPTIONS = {"device": "cpu", "threads": 1}


@pytest.fixture
def impossible(tiny):
    """An experiment whose training cannot begin."""
    (stage,) = tiny.stages
    stage = Stage(method="admm", schedule=stage.schedule, options=(("budget", 1), ("rho", -1.0)))
    return replace(tiny, slug="impossible", parent=None, stages=(stage,))


def test_one_after_the_other_and_past_a_failure(tiny, monkeypatch):
    seen = []

    def get(experiment, seed, **options):
        seen.append((experiment.slug, seed, options))
        if seed == 1:
            raise Diverged("the loss was nan")

    monkeypatch.setattr(runs.train, "get", get)
    tasks = [(tiny, 0), (tiny, 1), (tiny.parent, 0)]
    options = {"device": "cpu", "threads": 3, "deadline": math.inf, "say": print}
    outcomes = list(runs.parallel.run_all(tasks, **options))
    assert seen == [(e.slug, seed, options) for e, seed in tasks]
    assert [id for id, _ in outcomes] == [e.id(seed) for e, seed in tasks]
    assert [str(error) for _, error in outcomes] == ["None", "the loss was nan", "None"]


def test_outcomes_come_as_they_end(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(runs.train, "get", lambda experiment, seed, **options: seen.append(seed))
    outcomes = runs.parallel.run_all([(tiny, 0), (tiny, 1)], **OPTIONS)
    next(outcomes)
    assert seen == [0]


def test_nothing_to_do():
    assert list(runs.parallel.run_all([], jobs=2)) == []


def test_side_by_side_needs_come_first_and_a_failure_stops_no_other(
    results, trained_once, tiny, impossible
):
    """The control is no task of the batch: the compressed run trains it."""
    tasks = [(tiny, 0), (impossible, 0), (tiny.parent, 0)]
    outcomes = dict(runs.parallel.run_all(tasks, jobs=2, **OPTIONS))

    error = outcomes.pop(impossible.id(0))
    assert isinstance(error, ValueError)
    assert "rho = -1.0 must be above 0" in str(error)
    assert list(outcomes.items()) == [(tiny.parent.id(0), None), (tiny.id(0), None)]
    assert runs.status(impossible, 0) == "missing"
    finished = runs.finished("digits")
    assert {run.id for run in finished} == {e.id(0) for e in (tiny, tiny.parent, tiny.control)}
    for run in finished:  # and as if trained one after the other
        alone = trained_once / run.weights.relative_to(results)
        assert run.weights.read_bytes() == alone.read_bytes()


def test_a_deadline_that_has_passed_is_everyones(results, tiny):
    tasks = [(tiny.parent, 0), (tiny.parent, 1)]
    outcomes = list(runs.parallel.run_all(tasks, deadline=-math.inf, **OPTIONS))
    assert [type(error).__name__ for _, error in outcomes] == ["OutOfTime", "OutOfTime"]
    assert [runs.status(*task) for task in tasks] == ["missing", "missing"]
