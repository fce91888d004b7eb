"""Tables of trials on held-out images, of losses that are known, and the rule that decides."""

import re

import numpy as np
import pytest

from lib.workbook import experiments, report
from tests.workbook.report.made import run

IMAGES = 400

LC = experiments.lc.trials()
#: What six trials get right.
SIX = (0.9, 0.95, 0.95, 0.8, 0.7, 0.6)


def of_losses(losses, seed=0):
    known = {"losses": np.asarray(losses, dtype=np.float32), "test_loss": float(np.mean(losses))}
    return run(held_out_accuracy=0.9, images=len(losses), seed=seed, **known)


def losses(mean, seed=0):
    noise = np.random.default_rng(0).normal(0, 1, IMAGES)  # the same images are hard for all
    own = np.random.default_rng(seed + 1).normal(0, 0.01, IMAGES)
    return mean + noise - noise.mean() + own - own.mean()


@pytest.fixture
def ends(finished):
    """Name of the end → its runs."""
    slugs = {end: e.slug for end, e in experiments.trials.endings("cifar10").items()}

    class Ends(dict):
        def __setitem__(self, end, runs):
            super().__setitem__(end, runs)
            finished[slugs[end]] = runs

    return Ends()


def test_differences_are_paired_image_by_image():
    """The images differ by far more than the networks do."""
    found = {"today": of_losses(losses(0.5)), "other": of_losses(losses(0.49, seed=1))}
    table = report.trials.against(found, "today").set_index("trial")
    gained = found["today"].losses.astype(float) - found["other"].losses
    assert table.loc["today", ["ahead", "ahead_se"]].tolist() == [0, 0]
    other = table.loc["other"]
    assert other["ahead"] == pytest.approx(10, rel=1e-4)
    assert other["ahead_se"] == pytest.approx(1000 * gained.std(ddof=1) / 20)
    assert other["ahead_se"] < 2
    assert (other["accuracy"], other["hours"], other["images"]) == (90, 0.5, IMAGES)
    alone = report.trials.against({"other": found["other"]}, "today")
    assert alone["ahead"].isna().all()


def test_an_end_is_taken_where_it_is_ahead_on_both_seeds(ends):
    assert report.committed("endings").startswith("No run of ADMM's ends")
    ends["today"] = [of_losses(losses(0.5))]
    ends["V held"] = [of_losses(losses(0.49, seed=1))]
    assert report.trials.decision().startswith("Undecided: fading dual steps, W averaged")
    for i, end in enumerate(experiments.trials.ENDS):
        if end not in ends:
            ends[end] = [of_losses(losses(0.5 + 0.001 * i, seed=2 + i))]
    assert report.trials.best(report.trials.ends(0)) == "V held"
    assert report.trials.decision().startswith("Undecided: V held is ahead on seed 0, and has not")
    ends["today"].append(of_losses(losses(0.6), seed=1))
    ends["V held"].append(of_losses(losses(0.59, seed=1), seed=1))
    assert report.trials.decision().startswith("V held is taken")
    ends["V held"][1] = of_losses(losses(0.61, seed=1), seed=1)
    assert report.trials.decision() == (
        "Today's end stays: V held is ahead by two standard errors on seed 0, not on seed 1."
    )
    ends["V held"] = [of_losses(losses(0.4999, seed=1))]
    assert report.trials.decision().startswith("Today's end stays: none is ahead")
    text = report.committed("endings")
    assert "seed 1" in text
    assert text.endswith(report.trials.decision())


# ------------------------------------------------------------------------------------------ knobs


def test_edges_are_the_least_and_the_largest_that_was_tried(finished):
    settings, tried = ({"gradual": part["gradual"]} for part in (experiments.lc.TRIALS, LC))
    for experiment, accuracy in zip(LC["gradual"], (0.9, 0.8, 0.902, 0.8, 0.899, 0.8), strict=True):
        finished[experiment.slug] = [trial(accuracy)]
    # √(0.902·0.098/5,000) is 0.42 points
    said = report.trials.edges(tried, settings)
    assert re.search(r"tried: none; 2 of the 5 others within one standard error, 0\.42 p", said)
    finished[LC["gradual"][0].slug] = [trial(0.95)]
    assert "tried: until 0.25; 0 of the 5 others" in report.trials.edges(tried, settings)
    del finished[LC["gradual"][0].slug]
    assert report.trials.edges(tried, settings) == ""


def test_trials_mark_the_first_of_the_best(finished):
    for experiment, accuracy in zip(LC["lc"], SIX, strict=True):
        finished[experiment.slug] = [trial(accuracy)]
    table = report.trials.tried({"lc": LC["lc"]}, {"lc": experiments.lc.TRIALS["lc"]})
    assert table["chosen"].tolist() == [False, True, False, False, False, False]
    assert table["accuracy"].iloc[0] == pytest.approx(90)
    assert table["knobs"].iloc[0] == "mu 0.0003, rise 300"


def trial(accuracy, images=1_000, swapped=0):
    """Right on the first images; ``swapped`` of them on the last instead, one by one."""
    correct = np.arange(images) < round(accuracy * images)
    if swapped:
        correct[:swapped], correct[-swapped:] = False, True
    return run(None, held_out_accuracy=accuracy, correct=correct)


@pytest.mark.parametrize(
    ("wider", "chosen"),
    [
        ([trial(0.95)], 1),
        ([trial(0.951, swapped=10), trial(0.94)], 1),  # ahead by 0.1, standard error 0.46
        ([trial(0.951, swapped=10), trial(0.96, swapped=5)], 7),  # ahead by 1.0, 0.44
        ([trial(0.96), trial(0.97)], 7),
    ],
)
def test_beyond_an_edge_a_setting_has_to_be_ahead_by_a_standard_error(finished, wider, chosen):
    lc = experiments.comparison.trials()["lc"]
    for experiment, one in zip(lc, [*map(trial, SIX), *wider], strict=False):
        finished[experiment.slug] = [one]
    table = report.trials.tried({"lc": lc}, {"lc": experiments.comparison.tried()["lc"]})
    assert table["chosen"].tolist() == [i == chosen for i in range(6 + len(wider))]
    best, other = trial(0.95).correct, wider[-1].correct
    b, c = int((other & ~best).sum()), int((best & ~other).sum())
    expected = (b - c) / 10, 100 * np.sqrt(b + c - (b - c) ** 2 / 1_000) / 1_000
    assert table[["ahead", "ahead_se"]].iloc[-1].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (experiments.comparison, experiments.comparison.tried()),
        (experiments.lc, experiments.lc.TRIALS),
    ],
    ids=["comparison", "curve"],
)
def test_knobs_are_the_best_of_the_committed_trials(part, settings, monkeypatch):
    monkeypatch.delenv("WORKBOOK_RESULTS", raising=False)
    table = report.trials.tried(part.trials(), settings)
    for method, rows in table.groupby("method"):
        (key,) = (key for key in part.TRIALS if report.comparison.NAMES[key] == method)
        assert len(rows) == len(settings[key]), f"trials of {method} are missing"
        chosen = int(np.flatnonzero(rows["chosen"])[0])
        assert settings[key][chosen] == part.TUNED[key]
