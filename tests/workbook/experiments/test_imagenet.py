"""ImageNet's rows: budgets and schedules as the papers state them, controls, published starts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lib import accounting, data, networks
from lib.data import imagenet as folders
from lib.data import sample as drawn
from lib.layers import compressible
from lib.networks import pretrained
from lib.training import Schedule
from lib.workbook import experiments, report, runs
from lib.workbook.experiments import Experiment, catalogue, dense, spec

imagenet, df = experiments.imagenet, experiments.df


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


@pytest.mark.parametrize("network", pretrained.PUBLISHED)
def test_weights_and_macs_are_counted_for_the_classes_and_pixels_that_are_read(network):
    for dataset, form in folders.FORMS.items():
        model = shapes(network, form.classes)
        counted = sum(w.numel() for w in compressible(model).values())
        assert experiments.weights(network, form.classes) == counted
        assert df.dense_weights(dataset, network) == counted
        shape = (3, form.crop, form.crop)
        assert df.input_shape(dataset, network) == shape
        assert df.dense_macs(dataset, network) == accounting.macs(model, shape)


def test_streamed_images_are_cut_and_mirrored_as_they_are_read_and_not_once_more():
    for dataset in imagenet.EPOCHS:
        for entry in catalogue(dataset):
            for stage in entry.experiment.stages:
                assert stage.schedule.crop == 0
                assert not stage.schedule.flip


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


# ------------------------------------------------------------------------------ the catalogue


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
