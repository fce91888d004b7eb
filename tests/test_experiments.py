"""What an experiment's name depends on, and a catalogue that hangs together."""

from dataclasses import dataclass, replace
from hashlib import sha256

import pytest

from lib import experiments
from lib.data import NAMES
from lib.experiments import Experiment, Stage, admm, catalogue, dense, find
from lib.optimizers import METHODS
from lib.training import Schedule

DATASETS = experiments.DATASETS


def hashed(experiment):
    return experiment.name.removeprefix(f"{experiment.slug}-")


def test_a_name_is_a_slug_and_a_hash_and_an_id_adds_the_seed():
    experiment = dense("digits")
    assert experiment.name.startswith("lenet5-digits-dense-")
    assert len(hashed(experiment)) == 8
    assert experiment.id(7) == f"{experiment.name}-s7"


def test_a_name_depends_on_this_text_alone():
    """Committed runs are found by their names: how one is made may never change."""
    stage = Stage(method="sgd", schedule=Schedule(epochs=2, lr=0.1), options=(("a", 1),))
    parent = Experiment(slug="p", dataset="digits", network="lenet5", stages=(stage,))
    child = replace(parent, slug="c", parent=parent, budget=10)
    text = (
        '"dataset": "digits", "network": "lenet5", %s"stages": [{"method": "sgd", '
        '"options": [["a", 1]], "schedule": {"epochs": 2, "lr": 0.1}}]}'
    )
    of_parent = "{" + text % ""
    of_child = '{"budget": 10, ' + text % f'"parent": {of_parent}, '
    assert hashed(parent) == sha256(of_parent.encode()).hexdigest()[:8]
    assert hashed(child) == sha256(of_child.encode()).hexdigest()[:8]


def test_a_new_field_with_a_default_changes_no_name():
    @dataclass(frozen=True, kw_only=True)
    class WiderStage(Stage):
        extra: float = 0.5

    @dataclass(frozen=True, kw_only=True)
    class Wider(Experiment):
        extra: str | None = None

    stage = {"method": "sgd", "schedule": Schedule(epochs=2, lr=0.1)}
    fields = {"slug": "a", "dataset": "digits", "network": "lenet5"}
    narrow = Experiment(stages=(Stage(**stage),), **fields)
    wide = Wider(stages=(WiderStage(**stage),), **fields)
    assert wide.name == narrow.name
    assert replace(wide, extra="x").name != narrow.name


def test_slugs_are_for_people():
    experiment = admm("digits", rate=200)
    renamed = replace(experiment, slug="other")
    assert hashed(renamed) == hashed(experiment)
    parent = replace(experiment.parent, slug="other")
    assert hashed(replace(experiment, parent=parent)) == hashed(experiment)


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": 2},
        {"dataset": "mnist"},
        {"budget": 1},
        {"mode": "prune"},
        {"trace": True},
        {"held_out": True},
        {"parent": None},
        {"parent": replace(dense("digits"), recipe=2)},
        {"stages": ()},
    ],
)
def test_everything_else_is_hashed(change):
    experiment = admm("digits", rate=200)
    assert hashed(replace(experiment, **change)) != hashed(experiment)


def test_a_control_trains_the_parent_on_by_the_same_schedules():
    experiment = admm("digits", rate=200, epochs=7)
    control = experiment.control
    assert control.parent == experiment.parent
    assert [stage.schedule for stage in control.stages] == [s.schedule for s in experiment.stages]
    assert {stage.method for stage in control.stages} == {"sgd"}
    assert control.epochs == experiment.epochs == 7
    assert control.budget is control.mode is None
    assert control.control is None
    assert dense("digits").control is None
    assert replace(experiment, held_out=True).control.held_out


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_catalogue_hangs_together(dataset):
    entries = catalogue(dataset)
    ids = [e.id(seed) for entry in entries for e, seed in entry.runs]
    assert len(ids) == len(set(ids))
    for entry in entries:
        experiment = entry.experiment
        assert experiment.dataset == dataset in NAMES
        assert entry.purpose
        assert entry.priority >= 1
        for other in (experiment.parent, experiment.control and experiment.control.parent):
            assert other is None or {other.id(s) for s in range(entry.seeds)} <= set(ids)
        for stage in experiment.stages:
            METHODS[stage.method](**dict(stage.options))  # its options are those of its method
        for device in ("cpu", "cuda"):
            assert experiments.seconds(experiment, device) > 0


def test_the_catalogue_has_what_the_tables_and_figures_ask_for():
    for dataset in DATASETS:
        ids = {e.id(seed) for entry in catalogue(dataset) for e, seed in entry.runs}
        wanted = []
        if dataset in ("mnist", "digits"):
            wanted += experiments.table_3(dataset)
            wanted += experiments.figure_2(dataset).values()
            wanted += experiments.tau(dataset).values()
        if dataset != "mnist":
            wanted += experiments.table_4(dataset)
        assert {experiment.id(0) for experiment in wanted} <= ids
    assert {0.01, 0.05, 0.1, 0.5} <= set(experiments.figure_2("mnist"))  # the paper's four


def test_budgets_are_what_their_rates_allow():
    first, *_ = experiments.table_3("mnist")
    assert first.budget == 6_888  # 430,500 weights, 32 bits, 2,000 times less
    for experiment in experiments.table_3("mnist"):
        (stage,) = experiment.stages
        if stage.method == "tune-codebooks":
            (stage,) = experiment.parent.stages
        assert dict(stage.options)["budget"] == experiment.budget
        assert experiment.budget in (8_103, 6_888, 4_592)  # 1,700, 2,000 and 3,000 times less


def test_find_takes_a_slug_a_name_or_an_id():
    experiment = dense("digits")
    assert find(experiment.id(1)) == [(experiment, 1)]
    assert find(experiment.name) == find(experiment.slug)
    assert [seed for _, seed in find(experiment.slug)] == [0, 1]


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ValueError, match="no experiment 'lenet5-digit-dense'") as error:
        find("lenet5-digit-dense")
    assert "lenet5-digits-dense" in str(error.value)
    with pytest.raises(ValueError, match="in the catalogue"):
        find("?")


def test_an_unknown_data_set_lists_the_known():
    with pytest.raises(ValueError, match=r"'svhn': choose one of .*digits"):
        catalogue("svhn")


def test_codebooks_are_tuned_more_slowly_and_the_control_trains_as_long():
    compressed = experiments.admm("mnist", rate=100)
    tuned = experiments.tuned(compressed, epochs=20)
    (tuning,) = tuned.stages
    assert tuned.parent == compressed
    assert (tuning.method, tuning.schedule.epochs) == ("tune-codebooks", 20)
    assert tuning.schedule.lr < compressed.stages[0].schedule.lr
    assert tuned.control.parent == compressed.control
    assert tuned.control.epochs + compressed.control.epochs == tuned.epochs + compressed.epochs


def test_the_short_rows_are_some_of_the_full_ones_by_another_schedule():
    def options(experiment):
        """Those of ADMM; of a growth only that it is one, as it depends on the epochs."""
        chosen = dict(experiment.stages[0].options)
        return chosen | {"growth": "growth" in chosen}

    full = {(e.budget, "growth" in e.slug): e for e in experiments.table_4("cifar10-jpeg")}
    for short in experiments.short_table_4("cifar10-jpeg"):
        row = full[short.budget, "growth" in short.slug]
        assert (short.network, short.mode) == (row.network, row.mode)
        assert options(short) == options(row)
        assert short.epochs < row.epochs
        assert short.parent.epochs < row.parent.epochs
    with pytest.raises(ValueError, match="no shorter schedule on digits"):
        experiments.short_table_4("digits")
