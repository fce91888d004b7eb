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

#: Points of accuracy that a network may lose and still match the one before it.
MARGIN = 0.5

#: Quantiles of the normal distribution at (1 + LEVEL)/2 and at LEVEL.
NORMAL_TWO_SIDED, NORMAL_ONE_SIDED = 1.959963984540054, 1.6448536269514722


@dataclass(frozen=True)
class Interval:
    """A mean difference with a two-sided 95 % interval, and its two one-sided 95 % bounds.

    ``low`` and ``high`` are the interval's ends; ``at_least`` and ``at_most`` are bounds of which
    each alone holds in 95 of 100 samples. ``over`` is what was drawn: ``seeds`` (then ``n`` of
    them) or ``images`` (of one pair of networks, ``n`` = 1). Of one seed all four are NaN.
    """

    mean: float
    low: float
    high: float
    at_least: float
    at_most: float
    n: int
    over: str

    @property
    def said(self) -> str:
        """The mean with its sign, and the interval with what it is over, if there is one."""
        said = self.said_as("{:+.2f}")
        return said if math.isnan(self.low) else f"{said} over {self.over}"

    def said_as(self, form: str = "{:.2f}") -> str:
        """The mean in points, and the interval, if there is one."""
        mean, low, high = map(form.format, (self.mean, self.low, self.high))
        return f"{mean} points" if math.isnan(self.low) else f"{mean} [{low}, {high}] points"

    def __neg__(self) -> "Interval":
        bounds = -self.mean, -self.high, -self.low, -self.at_most, -self.at_least
        return Interval(*bounds, self.n, self.over)

    @property
    def verdict(self) -> str:
        """What a drop of accuracy in points comes to: ``matched``, ``worse`` or ``undecided``.

        Matched: at most ``MARGIN`` = 0.5 points are lost, by the one-sided bound. Worse, of what is
        not matched: more than nothing is lost, by the other. Bounds over images say so.
        """
        found = "undecided"
        if self.at_least > 0:
            found = "worse"
        if self.at_most <= MARGIN:
            found = "matched"
        return f"{found} (images)" if self.over == "images" else found


def _interval(mean: float, error: float, quantiles: Sequence[float], n: int, over: str) -> Interval:
    two, one = (float(quantile) * error for quantile in quantiles)
    return Interval(mean, mean - two, mean + two, mean - one, mean + one, n, over)


def over_seeds(differences: Sequence[float]) -> Interval:
    """x̄ ± t·s/√n over seeds, t a quantile of Student's t with n − 1 degrees of freedom."""
    from scipy import stats

    n, mean = len(differences), float(np.mean(differences))
    if n < 2:
        return _interval(mean, math.nan, (1, 1), n, "seeds")
    error = float(np.std(np.asarray(differences), ddof=1)) / math.sqrt(n)
    quantiles = stats.t.ppf([(1 + LEVEL) / 2, LEVEL], n - 1)
    return _interval(mean, error, quantiles, n, "seeds")


def over_images(lost: np.ndarray) -> Interval:
    """The difference of two accuracies on the same images, in points, of one pair of networks.

    ``lost`` is (images,): +1 where only the first network is right, −1 where only the second, else
    0. With b and c of them, d = (b − c)/n and its variance is (b + c − (b − c)²/n)/n² (the paired
    proportions of McNemar's table; normal, so for b + c of ten or more).
    """
    mean, quantiles = 100 * float(np.mean(lost)), (NORMAL_TWO_SIDED, NORMAL_ONE_SIDED)
    return _interval(mean, standard_error(lost), quantiles, 1, "images")


def standard_error(lost: np.ndarray) -> float:
    """That of the difference of two accuracies on the same images, in points; ``lost`` likewise."""
    images, b, c = len(lost), int((lost > 0).sum()), int((lost < 0).sum())
    return 100 * math.sqrt(b + c - (b - c) ** 2 / images) / images


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
        return float(not np.any(differences))
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
