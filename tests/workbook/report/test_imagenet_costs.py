"""What runs on ImageNet cost, against counts by hand."""

import pandas as pd
import pytest

from lib.workbook import experiments, report

TRAIN, VAL = 1_281_167, 50_000


def test_work_of_a_row_of_df_is_cheaper_once_it_is_built():
    row = experiments.imagenet.hybrid("imagenet", "resnet50-imagenet")[0.5]
    choose, tune = (stage.epochs for stage in row.stages)
    dense = experiments.df.dense_macs("imagenet", "resnet50-imagenet")
    built = row.budget
    assert built == int(dense * 0.5)
    made = report.imagenet_costs.work(row)
    assert made["epochs"] == choose + tune
    assert made["steps"] == (choose + tune) * 20_019  # 64 images a step
    assert made["trained"] == (choose + tune) * TRAIN
    # the validation split after each epoch; BatchNorm of what was built; the run's end
    at_first, after = choose * VAL + TRAIN, tune * VAL + TRAIN + 2 * VAL
    assert made["read"] == made["trained"] + at_first + after
    assert made["operations"] == 2 * dense * (3 * choose * TRAIN + at_first) + 2 * built * (
        3 * tune * TRAIN + after
    )


def test_a_network_with_published_weights_is_measured_alone():
    start = experiments.imagenet.hybrid("imagenet", "mobilenetv2")[0.35].parent
    made = report.imagenet_costs.work(start)
    assert (made["epochs"], made["steps"]) == (0, 0)
    assert made["read"] == TRAIN + 2 * VAL
    assert made["operations"] == 2 * 300_774_272 * made["read"]


def test_what_is_kept_for_the_backward_pass_is_counted_once():
    # 784 pixels, 300 and 100 after ReLU, 10 log-probabilities in float32; a label in int64
    made = report.imagenet_costs.kept_for_backward("lenet300", classes=10, input_shape=(1, 28, 28))
    assert made == 4 * (784 + 300 + 100 + 10) + 8


def test_reading_is_of_pictures_as_large_as_imagenets():
    made = report.imagenet_costs.reading(pictures=4, passes=1)
    assert made["bytes"] == pytest.approx(report.imagenet_costs.ARCHIVE_BYTES / TRAIN, rel=0.1)
    assert made["images_a_second"] == pytest.approx(1000 / made["milliseconds"])
    assert 0 < made["milliseconds"] < 1000


@pytest.fixture(scope="module")
def made():
    return report.imagenet_costs.runs()


def test_every_run_of_the_catalogue_is_counted_once(made):
    names = [each.name for each in made["experiment"]]
    assert len(names) == len(set(names))
    assert set(names) == {entry.experiment.name for entry in experiments.catalogue("imagenet")}
    rows = made[made["part"] == "rows"].groupby("table").size()
    table_2 = len(experiments.imagenet.table_2("imagenet"))
    # of the figure the halves; the hybrid's rows are Table 4's
    counts = {"ADMM Table 2": table_2, "DF Figure 3b": 8, "DF Table 4": 4, "DF Table 6": 5}
    assert rows.to_dict() == counts
    # in float: their sum is beyond int64
    assert made["operations"].sum() == pytest.approx(sum(map(int, made["operations"])))


def test_floor_hours(made):
    hours = report.imagenet_costs.floor_hours(made, tflops=100, utilisation=0.5)
    assert hours.iloc[5] == pytest.approx(made["operations"].iloc[5] / 50e12 / 3600)
    for speed in ({"tflops": 0, "utilisation": 0.5}, {"tflops": 1, "utilisation": 1.5}):
        with pytest.raises(ValueError, match=f"tflops = {speed['tflops']}"):
            report.imagenet_costs.floor_hours(made, **speed)


def test_hours_by_measured_steps(made):
    steps = [("resnet50-imagenet", "plain", 0.01), ("resnet50-imagenet", "DF", 0.03)]
    steps = [*steps, ("mobilenetv2", "plain", 0.004)]
    steps = pd.DataFrame(steps, columns=["network", "method", "seconds"])
    made = made.assign(a_hours=report.imagenet_costs.measured_hours(made, steps))
    row = made[(made["network"] == "resnet50-imagenet") & (made["part"] == "rows")].iloc[0]
    # an epoch by DF, a hundred plain ones; what is only looked at a third of a plain step
    looked_at = row["read"] - row["trained"]
    seconds = TRAIN * (0.03 + 100 * 0.01) + looked_at * 0.01 / 3
    assert row["a_hours"] == pytest.approx(seconds / 3600)
    # not measured: by the MACs of its like
    start = made[(made["network"] == "mnasnet") & (made["epochs"] == 0)].iloc[0]
    seconds = start["read"] * 0.004 / 3 * 314_415_872 / 300_774_272
    assert start["a_hours"] == pytest.approx(seconds / 3600)
    assert made["a_hours"][made["network"] == "alexnet"].isna().all()
    groups = report.imagenet_costs.table(made)
    assert groups["runs"].sum() == len(made)
    assert (groups["a_hours"] * groups["runs"]).sum() == pytest.approx(made["a_hours"].sum())


def test_measured_steps_are_of_the_full_size(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_RESULTS", str(tmp_path))
    assert report.imagenet_costs.measured_steps() is None
    steps = [("resnet50", 224, 32, 16.0), ("resnet50", 64, 8, 1.0), ("alexnet", 224, 64, 4.0)]
    table = pd.DataFrame(steps, columns=["network", "side", "batch", "step (s)"])
    (tmp_path / "benchmarks").mkdir()
    for device, seconds in (("cpu", 99.0), ("cuda", table["step (s)"])):
        assert report.imagenet_costs.measured_steps() is None  # hours of a GPU are asked for
        measured = table.assign(method="plain", device=device, **{"step (s)": seconds})
        measured.to_csv(tmp_path / "benchmarks" / f"training-steps-{device}.csv", index=False)
    found = report.imagenet_costs.measured_steps()
    assert found["network"].tolist() == ["resnet50-imagenet", "alexnet"]
    assert found["seconds"].tolist() == [0.5, 0.0625]
