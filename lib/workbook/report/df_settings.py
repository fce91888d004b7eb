"""DF's Table 2: the paper's settings, and those of our rows."""

import inspect

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
    stated = reported("df_table2").set_index("setting")
    elsewhere = pd.Series({key: said for key, (_, said) in SETTINGS.items() if said})
    told = {
        name: pd.concat([column.map("{:g}".format, na_action="ignore").fillna("–"), elsewhere])
        for name, column in stated.items()
    }
    half = {"reduction": 0.5}
    network = "resnet50-imagenet"
    schedules = {
        "full": ("cifar10", experiments.df.df("cifar10", **half)),
        "CPU": ("cifar10", experiments.df.df("cifar10", **half, **experiments.df.cpu())),
        "short": ("cifar10", experiments.df.df(MIRROR, **half, **experiments.df.short(MIRROR))),
        "digits": ("cifar10", experiments.df.df("digits", **half)),
        "ImageNet": ("imagenet", experiments.imagenet.hybrid("imagenet", network)[0.5]),
    }
    columns = {data.describe(name): values for name, values in told.items()}
    for schedule, (of, experiment) in schedules.items():
        used = pd.Series(_used(experiment))
        columns[f"ours, {schedule}"] = used.mask(used == told[of][used.index], "same")
    made = pd.DataFrame(columns).loc[list(SETTINGS)]
    return made.rename(index={key: name for key, (name, _) in SETTINGS.items()}).rename_axis(
        "setting"
    )


def _used(experiment: Experiment) -> dict[str, str]:
    """What a row of DF has for each of ``SETTINGS``, as text."""
    choose, tune = experiment.stages
    defaults = inspect.signature(DF).parameters
    options = {name: given.default for name, given in defaults.items()} | dict(choose.options)
    trained = experiment.parent.stages  # none where the network was published
    called = {"lambda": "penalty", "C": "steepness", "mu_0": "start"}
    numbers = {
        "batch": tune.schedule.batch,
        "tuning_epochs": tune.epochs,
        "tuning_lr": tune.schedule.lr,
        "choosing": choose.epochs,
        **{key: options[name] for key, name in called.items()},
        **{key: options[key] for key in ("alpha", "beta", "step", "tolerance")},
    }
    return {key: f"{value:g}" for key, value in numbers.items()} | {
        "dense_lr": f"{trained[0].schedule.lr:g}" if trained else "–",
        "multiplier": "yes" if options["multiplier"] else "no",
        "statistics": {"batch": "each batch", "running": "frozen"}[options["statistics"]],
        "rises": f"{options['periods_per_epoch']} per epoch",
    }
