"""Differences between networks and how sure they are: paired, each interval with what it is over.

Several seeds: differences paired seed by seed, intervals and tests by Student's t over the seeds.
One seed: what the two networks get right on the same test images (McNemar). The first holds for
other seeds, the second for other images alone, and nothing here mixes the two.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Of a two-sided interval, and of the one-sided bounds that verdicts use.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean difference with a two-sided 95 % interval.

    ``over`` is what was drawn: ``seeds`` (then ``n`` of them) or ``images`` (of one pair of
    networks, ``n`` = 1). An interval over seeds that are one is NaN.
    """

    mean: float
    low: float
    high: float
    n: int
    over: str


def over_seeds(differences: Sequence[float]) -> Interval:
    """x̄ ± t·s/√n over seeds, t the 97.5 % quantile of Student's t with n − 1 degrees of freedom."""
    from scipy import stats

    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, "seeds")
    half = stats.t.ppf((1 + LEVEL) / 2, n - 1) * np.std(differences, ddof=1) / math.sqrt(n)
    return Interval(mean, mean - float(half), mean + float(half), n, "seeds")


def over_images(lost: np.ndarray) -> Interval:
    """The difference of two accuracies on the same images, in points, of one pair of networks.

    ``lost`` is (images,): +1 where only the first network is right, −1 where only the second, else
    0. With b and c of them, d = (b − c)/n and its variance is (b + c − (b − c)²/n)/n² (the paired
    proportions of McNemar's table; normal, so for b + c of ten or more).
    """
    images, b, c = len(lost), int((lost > 0).sum()), int((lost < 0).sum())
    mean = (b - c) / images
    half = 1.959963984540054 * math.sqrt(b + c - (b - c) ** 2 / images) / images
    return Interval(100 * mean, 100 * (mean - half), 100 * (mean + half), 1, "images")


def mcnemar(lost: np.ndarray) -> float:
    """The exact two-sided p-value that two networks are right equally often (McNemar).

    ``lost`` as in :func:`over_images`: of b + c images that they disagree on, b ~ Bin(b + c, ½).
    """
    from scipy import stats

    b, c = int((lost > 0).sum()), int((lost < 0).sum())
    return float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0


def paired_test(differences: Sequence[float]) -> float:
    """The two-sided p-value of a mean difference of zero, by Student's t over seeds; NaN for one.

    Differences that are all the same are certain: 0, or 1 where they are zero.
    """
    from scipy import stats

    if len(differences) < 2:
        return math.nan
    if np.ptp(differences) == 0:
        return float(differences[0] == 0)
    return float(stats.ttest_1samp(differences, 0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, corrected so that one false claim in all has 5 % (Holm, 1979).

    The i-th smallest of m is multiplied by m − i + 1, and none is below a smaller one's.
    """
    corrected, least = {}, 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for i, (name, p) in enumerate(ordered):
        least = max(least, min(1.0, (len(ordered) - i) * p))
        corrected[name] = least
    return {name: corrected[name] for name in p_values}
