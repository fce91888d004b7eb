"""Intervals and tests against scipy's, by enumeration, and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from lib.workbook import report


def table(b, c, images=1000):
    """Images that only the first network, and only the second, gets right."""
    return np.array([1] * b + [-1] * c + [0] * (images - b - c), dtype=np.int8)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_over_seeds_is_students_t(n):
    x = np.random.default_rng(n).normal(0.3, 1, n)
    found = report.statistics.over_seeds(x)
    expected = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.mean, found.n, found.over) == (pytest.approx(x.mean()), n, "seeds")
    above = stats.ttest_1samp(x, 0, alternative="greater").confidence_interval(0.95)
    below = stats.ttest_1samp(x, 0, alternative="less").confidence_interval(0.95)
    assert (found.at_least, found.at_most) == pytest.approx((above.low, below.high))


def test_one_sided_bounds_over_images_are_normal():
    lost = table(60, 25)
    half = 100 * stats.norm.ppf(0.95) * lost.std() / math.sqrt(len(lost))
    found = report.statistics.over_images(lost)
    assert (found.at_least, found.at_most) == pytest.approx((3.5 - half, 3.5 + half))


@pytest.mark.parametrize(
    ("drops", "verdict"),
    [
        ([0.1, 0.1, 0.1], "matched"),
        ([-0.4, -0.2, -0.3], "matched"),
        ([0.30, 0.32, 0.31], "matched"),  # something is lost, but surely less than the margin
        ([0.6, 0.8, 0.7], "worse"),
        ([0.2, 0.9, 0.5], "undecided"),
        ([-1.0, 1.0, 0.0], "undecided"),
        ([0.1], "undecided"),
    ],
)
def test_verdicts_of_drops_over_seeds(drops, verdict):
    assert report.statistics.over_seeds(drops).verdict == verdict


def test_verdicts_of_one_pair_say_that_they_are_over_images():
    assert report.statistics.over_images(table(60, 25)).verdict == "worse (images)"
    assert report.statistics.over_images(table(2, 2, images=10_000)).verdict == "matched (images)"
    assert report.statistics.over_images(table(30, 25)).verdict == "undecided (images)"


def test_one_seed_has_no_interval_over_seeds():
    found = report.statistics.over_seeds([0.4])
    assert found.mean == 0.4
    assert np.isnan([found.low, found.high, report.statistics.paired_test([0.4])]).all()


def test_an_interval_over_seeds_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1.0, 2.0, (4000, 3))
    intervals = [report.statistics.over_seeds(row) for row in draws]
    covered = np.mean([i.low <= 1.0 <= i.high for i in intervals])
    assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / len(draws))


def test_over_images_is_the_variance_of_a_paired_difference():
    lost = table(60, 25)
    found, half = report.statistics.over_images(lost), 196 * lost.std() / math.sqrt(len(lost))
    expected = pytest.approx((3.5, 3.5 - half, 3.5 + half), abs=1e-4)
    assert (found.mean, found.low, found.high) == expected
    assert (found.n, found.over) == (1, "images")
    alike = report.statistics.over_images(table(0, 0))
    assert (alike.mean, alike.low, alike.high) == (0, 0, 0)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (3, 8), (20, 20), (0, 12)])
def test_mcnemar_by_enumeration(b, c):
    """The probability of every outcome that is no likelier than what was seen."""
    n = b + c
    chances = [math.comb(n, k) / 2**n for k in range(n + 1)]
    expected = sum(p for p in chances if p <= chances[b] * (1 + 1e-9))
    assert report.statistics.mcnemar(table(b, c)) == pytest.approx(expected)


def test_a_paired_test_is_students_t_and_certain_where_seeds_agree():
    x = [0.1, 0.5, 0.2]
    assert report.statistics.paired_test(x) == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert report.statistics.paired_test([0.3, 0.3]) == 0
    assert report.statistics.paired_test([0.0, 0.0]) == 1


def test_holms_correction():
    found = report.statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert list(found) == ["a", "b", "c", "d"]
    assert report.statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
