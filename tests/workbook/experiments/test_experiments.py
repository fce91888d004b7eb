"""What an experiment's name depends on, and a catalogue that hangs together."""

from dataclasses import dataclass, replace
from hashlib import sha256
from types import SimpleNamespace

import pytest

from lib.data import NAMES
from lib.layers import compressible
from lib.optimizers import METHODS
from lib.training import Schedule
from lib.workbook import experiments, runs
from lib.workbook.experiments import Experiment, Stage, admm, catalogue, dense, find
from lib.workbook.experiments.spec import Entry
from lib.workbook.runs.search import BlackBox
from lib.workbook.runs.verify import verify

DATASETS = experiments.DATASETS
comparison, lc = experiments.comparison, experiments.lc


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


def test_trials_curves_and_dense_networks_have_no_control():
    experiment = admm("digits", rate=200)
    assert replace(experiment, held_out=True).control is None
    assert replace(experiment, trace=True).control is None
    assert replace(experiment, parent=None).control is None
    assert replace(experiment, like=experiment.parent).control == experiment.control
    # of one that starts from a compressed network: that one's control, fine-tuned
    tuned = experiments.tuned(experiment, epochs=3)
    assert tuned.control.parent == experiment.control


def test_a_run_that_is_taken_over_is_hashed_but_for_its_slug():
    other = admm("digits", rate=100)
    experiment = admm("digits", rate=200)
    like = replace(experiment, like=other)
    assert hashed(like) != hashed(experiment)
    assert hashed(like) != hashed(replace(experiment, like=admm("digits", rate=50)))
    assert hashed(like) != hashed(replace(experiment, like=replace(other, recipe=2)))
    assert hashed(like) == hashed(replace(like, like=replace(other, slug="renamed")))
    # as a parent and as what is taken over are not the same
    swapped = replace(experiment, parent=other, like=experiment.parent)
    assert hashed(swapped) != hashed(replace(experiment, like=other))


def test_a_searchs_epochs_are_those_of_all_its_trials():
    schedule = Schedule(epochs=3, lr=0.1)
    search = Stage(method="black-box", schedule=schedule, options=(("budget", 9), ("trials", 7)))
    plain = Stage(method="sgd", schedule=schedule)
    fields = {"slug": "a", "dataset": "digits", "network": "lenet5"}
    assert (search.epochs, plain.epochs) == (21, 3)
    assert Experiment(stages=(search, plain), **fields).epochs == 24


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_catalogue_hangs_together(dataset):
    entries = catalogue(dataset)
    ids = [e.id(seed) for entry in entries for e, seed in entry.runs]
    assert len(ids) == len({id[-len("12345678-s0") :] for id in ids})  # found by hash and seed
    for entry in entries:
        experiment = entry.experiment
        assert experiment.dataset == dataset in NAMES
        assert entry.purpose
        assert entry.priority >= 1
        for other in experiment.needs:
            assert {other.id(s) for s in range(entry.seeds)} <= set(ids)
        for stage in experiment.stages:
            options = dict(stage.options)
            if "like" in options.values():
                assert experiment.like
                share = 0.5 if options.get("scope") == "global" else [0.5]
                found = {"keep": share, "bits": [8]}
                options |= {name: found[name] for name, v in options.items() if v == "like"}
            (METHODS | {"black-box": BlackBox})[stage.method](**options)  # its options are its own
        for device in ("cpu", "cuda"):
            assert experiments.seconds(experiment, device) > 0


def test_what_several_parts_ask_for_is_there_once_with_the_most_seeds_and_soonest(monkeypatch):
    one, row = dense("digits"), admm("digits", rate=200)

    def part(*asked):
        return SimpleNamespace(entries=lambda dataset: [Entry(*fields) for fields in asked])

    renamed = replace(one, stages=one.stages)
    first = part((one, "first", 3), (renamed, "again", 2, 2), (row, "row", 1, 3, 4))
    parts = {"digits": (first, part((one, "last", 4)))}
    monkeypatch.setattr(experiments.index, "PARTS", parts)
    found = [(e.experiment, e.purpose, e.priority, e.later_priority) for e in catalogue("digits")]
    # what a row needs comes before it, as soon as the row
    needed = (row.control, "needed for row", 1, 4)
    assert found == [(one, "first", 1, 2), needed, (row, "row", 1, 4)]
    assert [entry.seeds for entry in catalogue("digits")] == [3, 3, 3]


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


# --------------------------------------------------------------- head to head and LC's figure

COMPARED = [(d, network) for d in comparison.RATES for network in comparison.RATES[d]]


@pytest.mark.parametrize(("dataset", "network"), COMPARED)
def test_head_to_head_all_rows_start_alike_and_train_as_long(dataset, network):
    rows = list(comparison.rows(dataset, network).values())
    methods = comparison.LENET5_METHODS if network == "lenet5" else comparison.METHODS
    assert len({row.name for row in rows}) == len(rows)
    assert len(rows) == len(methods) * len(comparison.RATES[dataset][network])
    assert {row.parent for row in rows} == {dense(dataset, network=network)}
    assert {row.epochs for row in rows} == {sum(comparison.EPOCHS[network, dataset])}
    # epoch by epoch, so that one control is that of all
    assert len({tuple(stage.schedule for stage in row.stages) for row in rows}) == 1
    assert len({row.control for row in rows}) == 1
    assert not any(row.held_out or row.trace for row in rows)
    weights = experiments.weights(network)
    assert [row.budget for row in rows] == [
        int(32 * weights / rate) for _ in methods for rate in comparison.RATES[dataset][network]
    ]


@pytest.mark.parametrize(("dataset", "network"), COMPARED)
def test_the_black_box_takes_over_what_was_searched_on_held_out_images(dataset, network):
    for rate in comparison.RATES[dataset][network]:
        row = comparison.head_to_head(dataset, network, "black-box", rate)
        (stage,) = row.like.stages
        assert (stage.method, row.like.held_out, row.held_out) == ("black-box", True, False)
        assert row.like.parent.held_out
        assert dict(stage.options)["budget"] == row.like.budget == row.budget
        assert row.like.control is None


@pytest.mark.parametrize("part", [comparison, lc])
def test_every_method_has_as_many_trials_and_takes_one_of_them(part):
    assert {len(settings) for settings in part.TRIALS.values()} == {6}
    assert set(part.TUNED) - set(comparison.PAPERS) == set(part.TRIALS)
    for method, settings in part.TRIALS.items():
        assert part.TUNED[method] in settings
        assert len({tuple(sorted(knobs.items())) for knobs in settings}) == 6
    wider = getattr(part, "WIDER", {})
    for method, tried in part.trials().items():
        expected = 6 + len(wider.get(method, ()))
        assert len({trial.name for trial in tried}) == len({trial.slug for trial in tried})
        assert len({trial.name for trial in tried}) == expected
        assert all(trial.held_out and trial.parent.held_out for trial in tried)
        assert all(trial.control is None for trial in tried)
        assert len({trial.epochs for trial in tried}) == 1


@pytest.mark.parametrize("part", [comparison, lc])
def test_another_best_setting_leaves_every_trial_its_hash(part, monkeypatch):
    """Trials that are done are found again when the best of them has been chosen."""
    before = {method: [hashed(t) for t in tried] for method, tried in part.trials().items()}
    worst = {method: settings[-1] for method, settings in part.TRIALS.items()}
    monkeypatch.setattr(part, "TUNED", worst)
    assert {m: [hashed(t) for t in tried] for m, tried in part.trials().items()} == before


def test_a_trial_of_the_setting_that_is_taken_is_the_row_on_held_out_images():
    for method in comparison.TRIALS:
        knobs = comparison.TUNED[method]
        row = comparison.head_to_head("mnist", "lenet300", method, 500)
        trial = comparison.head_to_head("mnist", "lenet300", method, 500, **knobs)
        assert trial.stages == row.stages
        held_out = replace(row.parent, held_out=True)
        assert hashed(trial) == hashed(replace(row, held_out=True, parent=held_out))


def test_no_such_method_and_no_such_trial():
    with pytest.raises(ValueError, match="unknown method 'df': choose one of admm, admm-constant"):
        comparison.head_to_head("digits", "lenet300", "df", 50)
    for method, known in (("black-box", "no knobs"), ("admm-constant", "no knobs"), ("lc", "mu")):
        with pytest.raises(ValueError, match=f"'{method}' has {known}"):
            comparison.head_to_head("digits", "lenet300", method, 50, bits=2)
    with pytest.raises(ValueError, match="no shorter schedule on digits"):
        experiments.table_4("digits", length="short")
    with pytest.raises(ValueError, match="length = 'long'"):
        experiments.table_4("cifar10", length="long")


# --------------------------------------------------------------- what the rows really come to


def shortened(experiment):
    """The same of one epoch a stage, and of two trials."""
    stages = tuple(
        replace(
            stage,
            schedule=replace(stage.schedule, epochs=1, warmup=0),
            options=tuple(
                (name, {"trials": 2, "epochs": 1}.get(name, v)) for name, v in stage.options
            ),
        )
        for stage in experiment.stages
    )
    others = {kind: getattr(experiment, kind) for kind in ("parent", "like")}
    others = {kind: other and shortened(other) for kind, other in others.items()}
    # no control: its epochs are the test's, and it is compressed by nothing
    return replace(experiment, stages=stages, trace=True, **others)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One folder for all: the rows have their start in common."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_RESULTS", str(tmp_path_factory.mktemp("results")))
        runs.dataset_of.cache_clear()
        yield


ROWS = {f"{m}-{r}x": row for (m, r), row in comparison.rows("digits", "lenet300").items()}
ROWS |= {f"{kind}-200x": comparison.allocation("digits", kind) for kind in comparison.ALLOCATIONS}
ROWS |= {f"{bits}bits": comparison.fixed_width("digits", bits) for bits in comparison.WIDTHS}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_that_was_run_is_within_its_budget(results, name):
    row = shortened(ROWS[name])
    run = runs.get(row, 0, device="cpu", threads=1, quiet=True)
    assert verify(run) == []
    assert run.result["nominal_bits"] <= row.budget
    layers = compressible(run.model()).values()
    bits = [max(1, int(w[w != 0].unique().numel() - 1).bit_length()) for w in layers]
    kept = [int(w.count_nonzero()) for w in layers]
    assert sum(b * k for b, k in zip(bits, kept, strict=True)) == run.result["nominal_bits"]
    # and not far below, but for what follows ADMM: its last quantization sends weights to zero
    if not row.mode.startswith(("joint", "allocation")):
        assert run.result["nominal_bits"] > 0.9 * row.budget
    if row.like:
        other = runs.read(runs.folder_of(row.like, 0))
        if row.mode == "allocation-threshold":
            assert run.layers["kept"].sum() == other.layers["kept"].sum()
        else:
            assert run.layers["kept"].tolist() == other.layers["kept"].tolist()
