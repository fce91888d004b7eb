"""The catalogue: every row of every table and every curve of every figure, as an experiment."""

import difflib
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

#: Data sets that experiments are defined on.
DATASETS = tuple(
    dict.fromkeys(admm_table_3.DATASETS + admm_table_4.DATASETS + df.DATASETS + imagenet.DATASETS)
)

#: The stand-in for CIFAR-10 from the time when its own pixels were not at hand: nothing new is
#: trained on it, and it is listed only where it is asked for.
RETIRED = ("cifar10-jpeg",)

#: The catalogue's parts; what stands in several has the first one's purpose.
PARTS = (admm_table_3, lc, comparison, trials, cpu, admm_table_4, df, byte_budget, imagenet)


def catalogue(dataset: str) -> list[Entry]:
    """Every experiment on a data set, each once: with the most seeds, and as soon, as asked for."""
    if dataset not in DATASETS:
        raise ValueError(f"no experiments on {dataset!r}: choose one of {', '.join(DATASETS)}")
    found = chain(*(part.entries(dataset) for part in PARTS if dataset in part.DATASETS))
    unique: dict[str, Entry] = {}
    for entry in found:
        name = entry.experiment.name
        unique[name] = unique[name].merged(entry) if name in unique else entry
    return [_placed(entry, dataset) for entry in unique.values()]


def _placed(entry: Entry, dataset: str) -> Entry:
    """On MNIST nearly all is there: what is missing stands behind ResNet-20's rows."""
    return replace(entry, priority=MNIST, later_priority=None) if dataset == "mnist" else entry


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


#: Seconds an epoch, its evaluation included. ``cpu``: measured on one thread with AVX-512, on CIFAR
#: and ImageNet from a few steps in bfloat16, with 3.6 ms for reading each of ImageNet's images; an
#: epoch of ResNet-8 is 0.43 s plain and 0.75 s with ADMM's projections. ``cuda``: a guess for a
#: data-centre GPU.
SECONDS_AN_EPOCH = {
    ("lenet5", "digits"): {"cpu": 0.4, "cuda": 0.05},
    ("lenet5", "mnist"): {"cpu": 9.5, "cuda": 0.2},
    ("lenet300", "digits"): {"cpu": 0.05, "cuda": 0.03},
    ("lenet300", "mnist"): {"cpu": 0.9, "cuda": 0.2},
    ("resnet8", "digits"): {"cpu": 0.6, "cuda": 0.05},
    ("resnet20", "cifar"): {"cpu": 110, "cuda": 1.5},
    ("resnet56", "cifar"): {"cpu": 310, "cuda": 4},
    ("vgg16", "cifar"): {"cpu": 550, "cuda": 4},
    ("resnet50", "cifar"): {"cpu": 3200, "cuda": 15},
    ("alexnet", "imagenet"): {"cpu": 38_000, "cuda": 300},
    ("mobilenetv1", "imagenet"): {"cpu": 67_000, "cuda": 300},
    ("mobilenetv2", "imagenet"): {"cpu": 74_000, "cuda": 350},
    ("mnasnet", "imagenet"): {"cpu": 92_000, "cuda": 350},
    ("proxylessnas-mobile", "imagenet"): {"cpu": 128_000, "cuda": 350},
    ("resnet18-imagenet", "imagenet"): {"cpu": 84_000, "cuda": 300},
    ("resnet50-imagenet", "imagenet"): {"cpu": 232_000, "cuda": 550},
    ("alexnet", "imagenet-sample"): {"cpu": 4, "cuda": 1},
    ("mobilenetv1", "imagenet-sample"): {"cpu": 2.5, "cuda": 0.5},
    ("mobilenetv2", "imagenet-sample"): {"cpu": 2, "cuda": 0.5},
    ("resnet18-imagenet", "imagenet-sample"): {"cpu": 2.5, "cuda": 0.5},
}


def seconds(experiment: Experiment, device: str) -> float:
    """Roughly how long a run takes on a ``cpu`` or ``cuda`` device, its parent's time left out.

    On a CPU scaled to this machine, where it was measured (:mod:`lib.workbook.calibration`). A run
    that trains nothing is evaluated all the same: it counts as an epoch.
    """
    dataset = "cifar" if experiment.dataset.startswith("cifar") else experiment.dataset
    network = experiment.network.removesuffix("-tanh")
    scale = calibration.factor(experiment) if device == "cpu" else 1.0
    return scale * SECONDS_AN_EPOCH[network, dataset][device] * max(1, experiment.epochs)
