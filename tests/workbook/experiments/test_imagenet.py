"""ImageNet's rows: budgets and schedules as the papers state them, controls, published starts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib import accounting, data, networks, paths
from lib.data import imagenet as folders
from lib.data import sample as drawn
from lib.layers import compressible
from lib.networks import pretrained
from lib.training import Schedule
from lib.workbook import experiments, report, runs
from lib.workbook.experiments import Experiment, catalogue, dense, find, spec

imagenet, df = experiments.imagenet, experiments.df

ROWS = imagenet.table_2("imagenet")


def of(network):
    return [row for row in ROWS if row.network == network]


def shapes(network, classes=1000):
    with torch.device("meta"):
        return networks.build(network, classes=classes)


# ------------------------------------------------------------------------------ what is reported


def test_every_row_of_table_2_is_there_and_its_rate_follows_from_the_others():
    table = report.reported("admm_table2")
    counts = {"mobilenetv1": 9, "alexnet": 6, "mnasnet": 3, "proxylessnas-mobile": 3}
    assert table["network"].value_counts().to_dict() == counts
    assert set(table["mode"]) == {"prune", "quantize", "joint"}
    # as printed; that the Fixed-Bitwidth rows are automated is a misprint: both are set by hand
    assert (table["automated"][table["method"] == "Fixed-Bitwidth"] == "yes").all()
    kept, bits = table["nonzero_percent"].fillna(100), table["mean_bits"].fillna(32)
    # each is rounded: to whole percents, or tenths below ten, and to tenths of a bit
    percent, tenth = np.where((kept < 10) & (kept % 1 > 0), 0.05, 0.5), 0.05
    least = 3200 / ((kept + percent) * (bits + tenth))
    most = 3200 / ((kept - percent) * (bits - tenth))
    # and so is the rate
    assert table["rate"].between(0.98 * least, 1.02 * most).all()
    assert table.groupby("network")["dense_accuracy"].nunique().eq(1).all()


# ------------------------------------------------------------------------------------- the rows


def test_rates_are_those_of_the_table():
    rates = {
        network: [round(32 * experiments.weights(network, 1000) / row.budget, 1) for row in rows]
        for network in ("mobilenetv1", "alexnet", "mnasnet", "proxylessnas-mobile")
        for rows in [[row for row in of(network) if row.stages[0].method == "admm"]]
    }
    assert rates == {
        "mobilenetv1": [16, 10.7, 26.7],
        "alexnet": [100, 200],
        "mnasnet": [17.1, 35.6],
        "proxylessnas-mobile": [16.8, 35.6],
    }


@pytest.mark.parametrize("network", pretrained.NAMES)
def test_weights_and_macs_are_counted_for_the_classes_and_pixels_that_are_read(network):
    for dataset, form in folders.FORMS.items():
        model = shapes(network, form.classes)
        counted = sum(w.numel() for w in compressible(model).values())
        assert experiments.weights(network, form.classes) == counted
        assert df.dense_weights(dataset, network) == counted
        shape = (3, form.crop, form.crop)
        assert df.input_shape(dataset, network) == shape
        assert df.dense_macs(dataset, network) == accounting.macs(model, shape)


def test_schedules_are_the_papers():
    for row in ROWS:
        first, second = row.stages
        assert (first.epochs, second.epochs) == (90, 60)
        assert first.schedule.batch == (256 if row.network == "alexnet" else 128)
        assert (first.schedule.lr, first.schedule.weight_decay) == (0.01, 1e-4)
        assert second.method == "tune-codebooks"
        if first.method == "admm":
            rho = dict(first.options).get("rho")
            assert rho == (1e-3 if row.network == "alexnet" else 0.05)
    for network in imagenet.REDUCTIONS["imagenet"]:
        for row in imagenet.hybrid("imagenet", network).values():
            choose, tune = row.stages
            assert (tune.epochs, tune.schedule.lr, tune.schedule.batch) == (100, 0.001, 64)
            assert dict(choose.options)["beta"] == 8


def test_streamed_images_are_cut_and_mirrored_as_they_are_read_and_not_once_more():
    for dataset in imagenet.EPOCHS:
        for entry in catalogue(dataset):
            for stage in entry.experiment.stages:
                assert stage.schedule.crop == 0
                assert not stage.schedule.flip


def test_alexnet_goes_to_its_rates_in_stages_each_from_the_one_before():
    stages = imagenet.alexnet("imagenet")
    assert list(stages) == [40, 60, 100, 200]
    before = [dense("imagenet", network="alexnet"), *stages.values()]
    for start, stage in zip(before, stages.values(), strict=False):
        assert stage.parent == start
    assert [len(stage.stages) for stage in stages.values()] == [1, 1, 2, 2]
    # the last control was fine-tuned for as long as all of them together
    control, epochs = stages[200].control, 0
    while control.parent:
        control, epochs = control.parent, epochs + control.epochs
    assert epochs == sum(stage.epochs for stage in stages.values()) == 480


def test_deep_compression_takes_han_et_al_s_shares():
    row = imagenet.deep_compression("imagenet")
    prune, share = (dict(stage.options) for stage in row.stages)
    assert len(prune["keep"]) == len(share["bits"]) == len(compressible(shapes("alexnet")))
    kept = [
        int(s * w.numel())
        for s, w in zip(prune["keep"], compressible(shapes("alexnet")).values(), strict=True)
    ]
    assert round(100 * sum(kept) / experiments.weights("alexnet", 1000)) == 11  # as in Table 2
    assert round(row.budget / sum(kept), 1) == 5.4  # and so are the bits


def test_df_s_reductions_are_the_tables():
    for name, network in (
        ("df_table4", "resnet50-imagenet"),
        ("df_table6", "resnet18-imagenet"),
        ("df_table6", "mobilenetv2"),
    ):
        paper = report.reported(name).set_index(["algorithm", "network"])
        paper = paper.loc["DF", network.removesuffix("-imagenet")]
        reductions = imagenet.REDUCTIONS["imagenet"][network]
        assert [round(100 * r) for r in reductions] == list(paper["reduction_percent"])
        for reduction, row in imagenet.hybrid("imagenet", network).items():
            dense_macs = df.dense_macs("imagenet", network)
            assert (row.budget, row.budget_in) == (int(dense_macs * (1 - reduction)), "macs")


def test_figure_3b_has_the_hybrid_and_its_halves():
    for dataset in imagenet.EPOCHS:
        rows = imagenet.figure_3b(dataset)
        (network,) = {row.network for row in rows.values()}
        hybrid = [row for (mode, _), row in rows.items() if mode == "hybrid"]
        assert hybrid == list(imagenet.hybrid(dataset, network).values())
        assert {mode for mode, _ in rows} == {"hybrid", "filters", "ranks"}


# ------------------------------------------------------------------------------ the catalogue


def test_imagenet_comes_last_with_one_seed_and_a_control_for_every_row():
    smaller = [d for d in experiments.DATASETS if d not in imagenet.EPOCHS]
    last = max(entry.priority for dataset in smaller for entry in catalogue(dataset))
    for dataset in imagenet.EPOCHS:
        for entry in catalogue(dataset):
            assert entry.seeds == 1
            assert entry.priority > last
            if entry.experiment.mode:
                assert entry.experiment.control.epochs == entry.experiment.epochs


def test_the_sample_is_tiny_and_kept_apart(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path))
    entries = catalogue("imagenet-sample")
    assert len(entries) <= 20
    assert max(entry.experiment.epochs for entry in entries) <= 6
    assert paths.runs("imagenet-sample") == tmp_path / "imagenet-sample" / "runs"
    assert paths.runs("imagenet") == tmp_path / "runs"
    # evaluated before BatchNorm's statistics have moved, MnasNet would know nothing
    assert "mnasnet" not in {entry.experiment.network for entry in entries}


def test_the_names_of_both_are_found():
    for dataset in imagenet.EPOCHS:
        for entry in catalogue(dataset):
            assert find(entry.experiment.name) == entry.runs


# ------------------------------------------------------------------------ the published start


def test_what_is_published_is_the_start_and_is_not_trained():
    start = dense("imagenet", network="alexnet")
    assert start.published
    assert start.stages == ()
    assert start.control is None
    assert start.name != replace(start, published=False).name
    trained = dense("imagenet", network="alexnet", epochs=90)
    assert not trained.published
    assert trained.epochs == 90
    assert not dense("imagenet-sample", network="alexnet").published


def test_published_accuracies_are_those_that_the_papers_start_from():
    table = report.reported("admm_table2")
    for network, rows in table.groupby("network"):
        assert set(rows["dense_accuracy"]) == {pretrained.TOP_1[network]}


@pytest.fixture
def sample(results, monkeypatch):
    """A tenth of the sample, and published weights of MobileNetV1 for its three classes."""
    monkeypatch.setenv("WORKBOOK_DATA", str(results / "data"))
    form = replace(folders.FORMS["imagenet-sample"], train=30, val=6)
    monkeypatch.setitem(folders.FORMS, "imagenet-sample", form)
    drawn.generate(results / "data" / "imagenet-sample", train=30, val=6)
    torch.manual_seed(5)
    model = networks.build("mobilenetv1", classes=3)
    file = results / "published.pth"
    torch.save(model.state_dict(), file)
    loaded = pretrained.load
    monkeypatch.setattr(pretrained, "load", lambda name, **given: loaded(name, file=file, **given))
    yield model
    runs.dataset_of.cache_clear()


def test_a_published_network_is_a_run_as_any_other(sample):
    images = {"dataset": "imagenet-sample", "network": "mobilenetv1"}
    start = Experiment(slug="published", stages=(), published=True, **images)
    run = runs.get(start, 0, device="cpu", threads=1, quiet=True)
    state = run.state()
    assert all(torch.equal(tensor, state[name]) for name, tensor in sample.state_dict().items())
    assert run.result["method"] == "dense"
    assert run.result["epochs"] == run.result["train_seconds"] == 0
    assert run.result["dense_accuracy"] is run.result["control_accuracy"] is None
    assert run.experiment["published"] is True
    assert list(run.history["epoch"]) == []
    # the row that starts from it, and the control, start from its weights
    schedule = Schedule(epochs=1, lr=1e-9, batch=15)
    row = spec.compressed(start, "row", spec.stage("tune-codebooks", schedule, bits=8))
    assert row.control.parent == start
    control = runs.get(row.control, 0, device="cpu", threads=1, quiet=True, with_weights=True)
    assert control.result["parent"] == run.id
    trained = compressible(control.model())
    for name, weight in compressible(sample).items():
        assert torch.allclose(weight, trained[name], atol=1e-6)


def test_pixels_are_normalised_as_the_weights_expect_them(sample):
    cpu = torch.device("cpu")
    plain = runs.dataset_of("imagenet-sample", "alexnet", False, cpu)
    assert (plain.mean, plain.std) == folders.STATISTICS
    halved = runs.dataset_of("imagenet-sample", "mobilenetv1", False, cpu)
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    assert halved.normalise(pixels).flatten(1).tolist() == [[-1.0] * 3, [1.0] * 3]
    assert data.load("imagenet-sample").mean == folders.STATISTICS[0]


def test_in_the_samples_few_steps_a_mask_can_come_past_a_half():
    for network in imagenet.REDUCTIONS["imagenet-sample"]:
        for row in imagenet.hybrid("imagenet-sample", network).values():
            schedule, options = row.stages[0].schedule, dict(row.stages[0].options)
            steps = schedule.epochs * 300 // schedule.batch
            assert steps * options["step"] > 0.5  # Adam's steps are about as large, from M = 1
