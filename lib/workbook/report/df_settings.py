"""DF's Table 2: the paper's settings, and those of our rows."""

import inspect
from functools import partial

import pandas as pd

from lib import data
from lib.optimizers.df import DF
from lib.workbook import experiments
from lib.workbook.experiments import Experiment
from lib.workbook.report.places import MIRROR
from lib.workbook.report.rows import reported

#: Setting → its name, and what the paper says elsewhere where Table 2 lacks it.
SETTINGS = {
    "batch": ("batch size", None),
    "tuning_epochs": ("epochs of fine-tuning", None),
    "dense_lr": ("learning rate of the dense network", None),
    "tuning_lr": ("learning rate of fine-tuning", None),
    "lambda": ("λ", None),
    "C": ("C, in τ = C/σ₁", None),
    "mu_0": ("μ₀", None),
    "alpha": ("α", None),
    "beta": ("β", None),
    "multiplier": ("multiplier beside λ", "no"),
    "statistics": ("BatchNorm while choosing", "not stated"),
    "choosing": ("epochs of choosing, E", "not stated"),
    "rises": ("how often μ rises", "per iteration"),
    "step": ("learning rate of M and γ/σ₁ (Adam)", "not stated"),
    "tolerance": ("ε", "not stated"),
}


def settings() -> pd.DataFrame:
    """DF's Table 2, and what our rows have: a row a setting, those that Table 2 lacks last.

    The paper's columns are data sets. Ours are schedules (:mod:`lib.workbook.experiments.df`), read
    off the catalogue's experiments, ``same`` where the paper's column of that data set has it too.
    """
    stated = reported("df_table2").set_index("setting").map("{:g}".format, na_action="ignore")
    elsewhere = pd.Series({key: said for key, (_, said) in SETTINGS.items()})
    paper = stated.fillna("–").reindex(SETTINGS).apply(lambda column: column.fillna(elsewhere))
    half = partial(experiments.df.df, reduction=0.5)
    schedules = {
        "full": half("cifar10"),
        "CPU": half("cifar10", **experiments.df.cpu()),
        "short": half(MIRROR, **experiments.df.short(MIRROR)),
        "digits": half("digits"),
        "ImageNet": experiments.imagenet.hybrid("imagenet", "resnet50-imagenet")[0.5],
    }
    made = paper.rename(columns=data.describe)
    for schedule, experiment in schedules.items():
        used = pd.Series(_used(experiment)).reindex(made.index)
        of = paper["imagenet" if schedule == "ImageNet" else "cifar10"]
        made[f"ours, {schedule}"] = used.mask(used == of, "same")
    return made.rename({key: name for key, (name, _) in SETTINGS.items()})


def _used(experiment: Experiment) -> dict[str, str]:
    """What a row of DF has for each of ``SETTINGS``, as text."""
    choose, tune = experiment.stages
    defaults = inspect.signature(DF).parameters
    options = {name: given.default for name, given in defaults.items()} | dict(choose.options)
    trained = experiment.parent.stages  # none where the network was published
    called = {"lambda": "penalty", "C": "steepness", "mu_0": "start"}
    called |= {key: key for key in ("alpha", "beta", "step", "tolerance")}
    numbers = {
        "batch": tune.schedule.batch,
        "tuning_epochs": tune.epochs,
        "tuning_lr": tune.schedule.lr,
        "choosing": choose.epochs,
        **{key: options[name] for key, name in called.items()},
    }
    return {key: f"{value:g}" for key, value in numbers.items()} | {
        "dense_lr": f"{trained[0].schedule.lr:g}" if trained else "–",
        "multiplier": "yes" if options["multiplier"] else "no",
        "statistics": {"batch": "each batch", "running": "frozen"}[options["statistics"]],
        "rises": f"{options['periods_per_epoch']} per epoch",
    }
