"""The catalogue: every row of every table and every curve of every figure, as an experiment."""

import difflib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from lib.workbook import calibration
from lib.workbook.experiments import (
    admm_table_3,
    admm_table_4,
    byte_budget,
    comparison,
    cpu,
    df,
    imagenet,
    lc,
    trials,
)
from lib.workbook.experiments.spec import MNIST, Entry, Experiment

#: Data set → the parts of its catalogue; what is in several has the first one's purpose.
PARTS = {
    "mnist": (admm_table_3, lc, comparison, byte_budget),
    "digits": (admm_table_3, lc, comparison, admm_table_4, df, byte_budget),
    "cifar10-jpeg": (admm_table_4, df),
    "cifar10": (trials, cpu, admm_table_4, df),
    "cifar100": (df,),
    "imagenet": (imagenet,),
    "imagenet-sample": (imagenet,),
}

#: Data sets that experiments are defined on.
DATASETS = tuple(PARTS)

#: The stand-in for CIFAR-10 from the time when its own pixels were not at hand: nothing new is
#: trained on it, and it is listed only where it is asked for.
RETIRED = ("cifar10-jpeg",)


def catalogue(dataset: str) -> list[Entry]:
    """Every experiment on a data set, once, after what it needs: with all seeds asked for, as soon.

    Raises ``ValueError`` for a data set that no experiment is on.
    """
    if dataset not in DATASETS:
        raise ValueError(f"no experiments on {dataset!r}: choose one of {', '.join(DATASETS)}")
    unique: dict[str, Entry] = {}
    for asked in chain(*(part.entries(dataset) for part in PARTS[dataset])):
        for entry in (*_before(asked, asked.experiment), asked):
            name = entry.experiment.name
            unique[name] = unique[name].merged(entry) if name in unique else entry
    if dataset == "mnist":  # nearly all is there: what is missing comes behind ResNet-20's rows
        return [replace(entry, priority=MNIST, later_priority=None) for entry in unique.values()]
    return list(unique.values())


def _before(entry: Entry, experiment: Experiment) -> Iterator[Entry]:
    """What an experiment needs, and what that needs before it."""
    for need in experiment.needs:
        yield from _before(entry, need)
        yield replace(entry, experiment=need, purpose=f"needed for {entry.purpose}")


def find(name: str) -> list[tuple[Experiment, int]]:
    """The runs of the catalogue that ``name`` (a slug, a name or an id) means.

    Raises ``ValueError`` with the nearest names where there is none.
    """
    # a name says its data set; to list the others too would build their networks
    named = [dataset for dataset in DATASETS if f"-{dataset}-" in name] or DATASETS
    tasks = [run for dataset in named for entry in catalogue(dataset) for run in entry.runs]
    found = [(e, s) for e, s in tasks if name in (e.slug, e.name, e.id(s))]
    if not found:
        near = difflib.get_close_matches(name, {e.slug for e, _ in tasks}, n=3, cutoff=0.3)
        raise ValueError(f"no experiment {name!r} in the catalogue; near it: {', '.join(near)}")
    return found


#: Data set → network → seconds per epoch on a CPU and on a GPU, its evaluation included. CPU:
#: measured on one thread with AVX-512, on CIFAR and ImageNet from a few steps in bfloat16, with
#: 3.6 ms for reading each of ImageNet's images; an epoch of ResNet-8 is 0.43 s plain and 0.75 s
#: with ADMM's projections. GPU: a guess for a data-centre GPU.
SECONDS = {
    "digits": {"lenet5": (0.4, 0.05), "lenet300": (0.05, 0.03), "resnet8": (0.6, 0.05)},
    "mnist": {"lenet5": (9.5, 0.2), "lenet300": (0.9, 0.2)},
    "cifar": {
        "resnet20": (110, 1.5),
        "resnet56": (310, 4),
        "vgg16": (550, 4),
        "resnet50": (3200, 15),
    },
    "imagenet": {
        "alexnet": (38_000, 300),
        "mobilenetv1": (67_000, 300),
        "mobilenetv2": (74_000, 350),
        "mnasnet": (92_000, 350),
        "proxylessnas-mobile": (128_000, 350),
        "resnet18-imagenet": (84_000, 300),
        "resnet50-imagenet": (232_000, 550),
    },
    "imagenet-sample": {
        "alexnet": (4, 1),
        "mobilenetv1": (2.5, 0.5),
        "mobilenetv2": (2, 0.5),
        "resnet18-imagenet": (2.5, 0.5),
    },
}


def seconds(experiment: Experiment, device: str) -> float:
    """Roughly how long a run takes on a ``cpu`` or ``cuda`` device, its parent's time left out.

    On a CPU scaled to this machine, where it was measured (:mod:`lib.workbook.calibration`). A run
    that trains nothing is evaluated all the same: it counts as an epoch.
    """
    dataset = "cifar" if experiment.dataset.startswith("cifar") else experiment.dataset
    epoch = SECONDS[dataset][experiment.network.removesuffix("-tanh")][device == "cuda"]
    if device == "cpu":
        epoch *= calibration.factor(experiment.network, experiment.dataset)
    return epoch * max(1, experiment.epochs)
