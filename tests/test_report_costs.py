"""What runs on ImageNet cost, against counts by hand."""

import pytest

from lib import report_costs
from lib.experiments import imagenet, structured

TRAIN, VAL = 1_281_167, 50_000


def test_work_of_a_row_of_df_is_cheaper_once_it_is_built():
    row = imagenet.hybrid("imagenet", "resnet50-imagenet")[0.5]
    choose, tune = (stage.epochs for stage in row.stages)
    dense = structured.dense_macs("imagenet", "resnet50-imagenet")
    built = row.budget
    assert built == int(dense * 0.5)
    made = report_costs.work(row)
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
    start = imagenet.hybrid("imagenet", "mobilenetv2")[0.35].parent
    made = report_costs.work(start)
    assert (made["epochs"], made["steps"]) == (0, 0)
    assert made["read"] == TRAIN + 2 * VAL
    assert made["operations"] == 2 * 300_774_272 * made["read"]


def test_what_is_kept_for_the_backward_pass_is_counted_once():
    # 784 pixels, 300 and 100 after ReLU, 10 log-probabilities in float32; a label in int64
    made = report_costs.kept_for_backward("lenet300", classes=10, input_shape=(1, 28, 28))
    assert made == 4 * (784 + 300 + 100 + 10) + 8


def test_reading_is_of_pictures_as_large_as_imagenets():
    made = report_costs.reading(pictures=4, passes=1)
    assert made["bytes"] == pytest.approx(report_costs.ARCHIVE_BYTES / TRAIN, rel=0.1)
    assert made["images_a_second"] == pytest.approx(1000 / made["milliseconds"])
    assert 0 < made["milliseconds"] < 1000
