"""Tables of trials on held-out images, of losses that are known, and the rule that decides."""

from types import SimpleNamespace

import numpy as np
import pytest

from lib.workbook import experiments, report

IMAGES = 400


def run(losses, seed=0):
    result = {
        "held_out_accuracy": 0.9,
        "test_loss": float(np.mean(losses)),
        "images": len(losses),
        "train_seconds": 1800.0,
        "seed": seed,
    }
    losses = np.asarray(losses, dtype=np.float32)
    return SimpleNamespace(result=result, losses=losses, computed_in="float32")


def losses(mean, seed=0):
    noise = np.random.default_rng(0).normal(0, 1, IMAGES)  # the same images are hard for all
    own = np.random.default_rng(seed + 1).normal(0, 0.01, IMAGES)
    return mean + noise - noise.mean() + own - own.mean()


@pytest.fixture
def finished(monkeypatch):
    """What ``report.finished`` returns: name of the end → runs."""
    there = {}
    names = {
        experiment.name: end for end, experiment in experiments.trials.endings("cifar10").items()
    }
    monkeypatch.setattr(
        report.tables,
        "finished",
        lambda experiment, most=9: there.get(names.get(experiment.name), []),
    )
    return there


def test_differences_are_paired_image_by_image():
    """The images differ by far more than the networks do."""
    found = {"today": run(losses(0.5)), "other": run(losses(0.49, seed=1))}
    table = report.trials.against(found, "today").set_index("trial")
    gained = found["today"].losses.astype(float) - found["other"].losses
    assert table.loc["today", "ahead"] == table.loc["today", "ahead_se"] == 0
    other = table.loc["other"]
    assert other["ahead"] == pytest.approx(10, rel=1e-4)
    assert other["ahead_se"] == pytest.approx(1000 * gained.std(ddof=1) / 20)
    assert other["ahead_se"] < 2
    assert (other["accuracy"], other["hours"], other["images"]) == (90, 0.5, IMAGES)
    alone = report.trials.against({"other": found["other"]}, "today")
    assert alone["ahead"].isna().all()


def test_an_end_is_taken_where_it_is_ahead_on_both_seeds(finished):
    assert report.trials.committed_ends().startswith("No run of ADMM's ends")
    finished["today"] = [run(losses(0.5))]
    finished["V held"] = [run(losses(0.49, seed=1))]
    assert report.trials.decision().startswith("Undecided: fading dual steps, W averaged")
    for i, end in enumerate(experiments.trials.ENDS):
        finished.setdefault(end, [run(losses(0.5 + 0.001 * i, seed=2 + i))])
    assert report.trials.best(report.trials.ends(0)) == "V held"
    assert report.trials.decision().startswith("Undecided: V held is ahead on seed 0, and has not")
    finished["today"].append(run(losses(0.6), seed=1))
    finished["V held"].append(run(losses(0.59, seed=1), seed=1))
    assert report.trials.decision().startswith("V held is taken")
    finished["V held"][1] = run(losses(0.61, seed=1), seed=1)
    assert report.trials.decision() == (
        "Today's end stays: V held is ahead by two standard errors on seed 0, not on seed 1."
    )
    finished["V held"] = [run(losses(0.4999, seed=1))]
    assert report.trials.decision().startswith("Today's end stays: none is ahead")
    text = report.trials.committed_ends()
    assert "seed 1" in text
    assert text.endswith(report.trials.decision())


def test_the_grid_says_where_it_is_not_there(finished):
    assert report.trials.committed_grid().startswith("No run of DF's β and C")
