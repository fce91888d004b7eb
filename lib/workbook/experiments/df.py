"""DF, and what it is measured against: its Tables 1, 3 and 5, Figures 3a, 4, 5, and what they lack.

A compressed network is the outcome of two trainings: one that chooses what goes, one that trains on
what is left. A baseline that chooses at once trains on for as many epochs, by the same schedules.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import torch

from lib import networks, paths, structured
from lib.data.imagenet import FORMS
from lib.training import Schedule
from lib.workbook.experiments import admm_table_4, spec
from lib.workbook.experiments.recipes import (
    RHO,
    admm_schedule,
    bits_at,
    classes,
    dense,
    dense_schedule,
    growth,
    slower,
    weights,
)
from lib.workbook.experiments.spec import Entry, Experiment, compressed, stage, wanted

#: The network of each data set's rows; ResNet-20 in a short schedule for where there is no GPU.
NETWORK = dict.fromkeys(("cifar10-jpeg", "cifar10", "cifar100"), "resnet56") | {"digits": "resnet8"}

#: Shares of the MACs that go: the most wanted first.
REDUCTIONS = {"digits": (0.5, 0.6, 0.75), "cifar10-jpeg": (0.5, 0.6, 0.75, 0.4, 0.7, 0.55, 0.76)}
REDUCTIONS["cifar10"] = REDUCTIONS["cifar10-jpeg"]

#: Table 5's network on each data set, and the shares of its MACs that go.
TABLE_5 = {
    "cifar10-jpeg": ("vgg16", (0.6, 0.65, 0.7)),
    "cifar10": ("vgg16", (0.6, 0.65, 0.7)),
    "cifar100": ("resnet56", (0.5, 0.55)),
}

#: Epochs in which filters and ranks are chosen, how often μ rises in each, and epochs of training
#: on. The paper trains on for 100; it leaves the first open.
FULL = {"choose": 4, "periods_per_epoch": 4, "tune": 100}
SHORT = {"choose": 2, "periods_per_epoch": 8, "tune": 8}
CPU = {"choose": 5, "periods_per_epoch": 4, "tune": 45}
DIGITS = {"choose": 6, "periods_per_epoch": 2, "tune": 4}

#: On ImageNet an epoch has 20,019 steps: μ is at its largest after six of its 16 periods.
IMAGENET = {"choose": 1, "periods_per_epoch": 16, "tune": 100}
SAMPLE = {"choose": 2, "periods_per_epoch": 4, "tune": 2}

#: Each schedule's; where a data set has one of its own, whichever is asked for.
LENGTHS = {
    **{"full": FULL, "short": SHORT, "cpu": CPU},
    **{"digits": DIGITS, "imagenet": IMAGENET, "imagenet-sample": SAMPLE},
}

#: How the paper trains on ImageNet (Table 2); the weight decay is left open.
IMAGENET_SCHEDULE = Schedule(
    epochs=IMAGENET["tune"], lr=0.001, batch=64, weight_decay=1e-4, precision="bfloat16"
)

#: Epochs of the dense network that the short schedule starts from, as in ADMM's Table 4.
SHORT_DENSE = admm_table_4.SHORT["resnet20"]

#: The learning rate of the paper's dense networks (Table 2); ours start from a tenfold one.
WEAK_LR = 0.01

#: Options of DF here, and ours: λ = 10 with a multiplier, and BatchNorm measuring each batch.
DF_OPTIONS = {"penalty": 10.0, "statistics": "batch", "step": 0.02}

#: Nearer to the letter: the paper's λ alone, and BatchNorm's statistics frozen, our reading
#: of what it leaves open. What else differs is in :mod:`lib.optimizers.df`.
PRINTED = {"penalty": 1.0, "statistics": "running", "step": 0.02, "multiplier": False}

#: What DF is measured against, by its name in a slug: the four that choose at once, and LC, which
#: learns ranks in 16 C steps, at each of which μ rises by this, some 200-fold in all.
BASELINES = {
    "l1": ("filter-pruning", {"score": "l1"}),
    "group-magnitude": ("filter-pruning", {"score": "group-magnitude"}),
    "svd-uniform": ("low-rank", {"criterion": "uniform"}),
    "svd-energy": ("low-rank", {"criterion": "energy"}),
    "lc-ranks": ("lc-ranks", {"growth": 1.4}),
}

#: DF and its two halves.
HALVES = ("hybrid", "filters", "ranks")

#: The share of the MACs that goes in the rows of which a CPU trains one.
CPU_BASELINES = 0.6

#: The grid of β and C, tried on held-out images; β = 4 is the paper's, C is left open there.
TRIED = {"beta": (4.0, 2.0, 8.0), "steepness": (5.0, 2.5, 10.0)}


def chosen(length: str, *, dataset: str, device: str) -> dict[str, object]:
    """What makes a row one of the schedule ``length``: full, cpu, short, or auto.

    ``auto`` is CIFAR-10's schedule for a CPU where ``device`` is one, else the full one; on
    ``digits`` there is one schedule. Raises ``ValueError`` for another name.
    """
    if length not in ("auto", "full", "cpu", "short"):
        raise ValueError(f"length = {length!r}: choose auto, full, cpu or short")
    if length == "auto":
        length = "cpu" if dataset == "cifar10" and device == "cpu" else "full"
    if length == "full" or dataset == "digits":
        return {}
    return {"network": "resnet20", "length": length}


def short(dataset: str) -> dict[str, object]:
    """What makes a row one of the short schedule, on the network of a CPU."""
    return chosen("short", dataset=dataset, device="cpu")


def cpu() -> dict[str, object]:
    """What makes a row one of the schedule for a CPU: ResNet-20, unless it says another."""
    return {"network": "resnet20", "length": "cpu"}


def df(
    dataset: str,
    *,
    reduction: float,
    mode: str = "hybrid",
    network: str | None = None,
    length: str = "full",
    printed: bool = False,
    held_out: bool = False,
    weak: bool = False,
    **options,
) -> Experiment:
    """DF to a share of MACs, then what is left is trained.

    Parameters
    ----------
    reduction : the share of the MACs that goes.
    printed : nearer to the letter, with :data:`PRINTED`: the share is aimed at, and not held.
    weak : from :func:`weak_start`, and trained further at as small a share of its rate.
    options : those of :class:`lib.optimizers.df.DF`.
    """
    start = weak_start if weak else _start
    name = f"df-{mode}{'-weak' * weak}{'-printed' * printed}"
    name += "".join(f"-{k}{v}" for k, v in sorted(options.items()))
    options = {"mode": mode, **(PRINTED if printed else DF_OPTIONS), **options}
    place = start(dataset, network=network, length=length, held_out=held_out)
    row = _row(place, length, reduction, name, "df", **options)
    return replace(row, budget=None, budget_in="bits") if printed else row


def baseline(dataset: str, *, name: str, reduction: float, **place) -> Experiment:
    """One of ``BASELINES``, in as many epochs as DF; ``place``: network and length."""
    method, options = BASELINES[name]
    length = place.get("length", "full")
    return _row(_start(dataset, **place), length, reduction, name, method, **options)


def scratch(row: Experiment) -> Experiment:
    """The network that was built, trained from new weights for as many epochs as all before it."""
    schedule = row.parent.stages[0].schedule
    longer = replace(schedule, epochs=schedule.epochs + row.epochs)
    return compressed(
        row,
        f"{row.slug}-from-scratch",
        stage("sgd", longer),
        parent=None,
        like=row,
        mode="from-scratch",
        budget=row.budget,
        budget_in="macs",
    )


@cache
def dense_macs(dataset: str, network: str) -> int:
    """MACs of one image of the data set in the whole network.

    As :func:`lib.accounting.macs` counts, without the seconds that its counter takes to import.
    """
    shape = input_shape(dataset, network)
    with torch.device("meta"):
        whole = networks.build(network, classes=classes(dataset), channels=shape[0])
    return sum(layer.macs() for layer in structured.layers(whole, input_shape=shape).values())


def dense_weights(dataset: str, network: str) -> int:
    """The whole network's compressible weights, for the data set's classes."""
    return weights(network, classes(dataset))


def input_shape(dataset: str, network: str) -> tuple[int, int, int]:
    """(channels, height, width) of an image as the network reads it."""
    size = (FORMS[dataset].crop,) * 2 if dataset in FORMS else networks.INPUT_SHAPES[network][1:]
    return (1 if dataset == "digits" else 3, *size)


def _start(
    dataset: str, *, network: str | None = None, length: str = "full", held_out: bool = False
) -> Experiment:
    epochs = {"short": SHORT_DENSE, "cpu": admm_table_4.CPU["trial" if held_out else "dense"]}
    network = network or NETWORK[dataset]
    return dense(dataset, network=network, epochs=epochs.get(length), held_out=held_out)


def weak_start(dataset: str, **place) -> Experiment:
    """The paper's baseline: the dense network as ours is trained, at ``WEAK_LR`` (Table 2)."""
    start = _start(dataset, **place)
    schedule = replace(start.stages[0].schedule, lr=WEAK_LR)
    return replace(start, slug=f"{start.slug}-weak", stages=(stage("sgd", schedule),))


def _schedule(start: Experiment, length: str, epochs: int) -> Schedule:
    """How what is left is trained: a cosine without a warm-up, at a tenth of its start's rate.

    Half of it in a short schedule, whose dense network has not come to rest. On ImageNet it is the
    paper's.
    """
    if start.dataset == "imagenet":
        return IMAGENET_SCHEDULE
    by = 2 if start.dataset in paths.APART or length == "short" else 10
    usual = dense_schedule(start.dataset, start.network)
    return slower(replace(usual, lr=start.stages[0].schedule.lr), epochs, by=by)


def _row(
    start: Experiment, length: str, reduction: float, name: str, method: str, **options
) -> Experiment:
    """A method that chooses, in epochs of its own or at once, and the training of what is left."""
    dataset, network = start.dataset, start.network
    epochs = LENGTHS.get(dataset) or LENGTHS[length]
    tune = _schedule(start, length, epochs["tune"])
    choose = replace(tune, epochs=epochs["choose"])
    budget = int(dense_macs(dataset, network) * (1 - reduction))
    options |= {"budget": budget, "input_shape": input_shape(dataset, network)}
    if method in ("df", "lc-ranks"):
        options["periods_per_epoch"] = epochs["periods_per_epoch"]
        stages = [stage(method, choose, **options)]
    else:
        stages = [stage(method, replace(tune, epochs=0), **options), stage("sgd", choose)]
    if not start.held_out:  # on held-out images the choice alone is looked at
        stages.append(stage("sgd", tune))
    details = f"{100 * reduction:g}pct-{choose.epochs}+{tune.epochs}ep"
    return compressed(
        start,
        f"{network}-{dataset}-{name}-{details}{'-held-out' * start.held_out}",
        *stages,
        mode=options.get("mode", name),
        budget=budget,
        budget_in="macs",
    )


def curve(dataset: str, **length) -> dict[tuple[str, float], Experiment]:
    """(method, reduction) → the rows of Figures 3a and 4: DF, its halves and the baselines.

    Outside of the full schedule at the first three shares alone, and by the one for a CPU the
    baselines at ``CPU_BASELINES`` alone.
    """
    rows = {}
    for r in REDUCTIONS[dataset][: 3 if length else None]:
        place = {"reduction": r, **length}
        rows |= {(mode, r): df(dataset, mode=mode, **place) for mode in HALVES}
        if length.get("length") != "cpu" or r == CPU_BASELINES:
            rows |= {(name, r): baseline(dataset, name=name, **place) for name in BASELINES}
    return rows


def schedule_rows(dataset: str, **length) -> dict[tuple[bool, float], Experiment]:
    """(with the schedule, reduction) → Table 1's rows, filters alone."""
    # Table 1's shares, or those that digits have anyway
    reductions = REDUCTIONS[dataset] if dataset == "digits" else (0.5, 0.6, 0.7)
    return {
        (not constant, r): df(dataset, reduction=r, mode="filters", **constant, **length)
        for r in reductions
        for constant in ({}, {"beta": 0})
    }


def schemes(dataset: str, **length) -> dict[tuple[int, float], Experiment]:
    """(scheme, reduction) → Figure 5's rows, the hybrid in both matricizations."""
    return {
        (other.get("scheme", 1), r): df(dataset, reduction=r, **other, **length)
        for r in REDUCTIONS[dataset][:3]
        for other in ({}, {"scheme": 2})
    }


def as_printed(dataset: str, **length) -> dict[float, Experiment]:
    """Reduction → DF nearer to the letter: λ = 1, no multiplier, frozen statistics."""
    asked = REDUCTIONS[dataset][:3] if length.get("length") != "cpu" else (CPU_BASELINES,)
    return {r: df(dataset, reduction=r, printed=True, **length) for r in asked}


def binary(dataset: str, **length) -> dict[float, Experiment]:
    """Reduction → DF with masks that are 0 or 1 while they are learned."""
    return {
        r: df(dataset, reduction=r, straight_through=True, **length)
        for r in REDUCTIONS[dataset][:3]
    }


def trials(dataset: str, **length) -> dict[tuple[float, float], Experiment]:
    """(β, C) → the paper's light grid, on held-out images at 60 %: filters and ranks chosen."""
    place = {"reduction": 0.6, "held_out": True, **length}
    return {
        (beta, steepness): df(dataset, beta=beta, steepness=steepness, **place)
        for beta in TRIED["beta"]
        for steepness in TRIED["steepness"]
    }


def gain(dataset: str, **length) -> dict[str, Experiment]:
    """Where the gain comes from: DF from a weak start, from ours, and its network from new weights.

    Their parents and controls belong to the comparison.
    """
    hybrid = df(dataset, reduction=0.6, **length)
    weak = df(dataset, reduction=0.6, weak=True, **length)
    return {"weak": weak, "hybrid": hybrid, "from-scratch": scratch(hybrid)}


def table_5(dataset: str) -> dict[float, Experiment]:
    """Reduction → Table 5's rows: VGG-16 on CIFAR-10, ResNet-56 on CIFAR-100."""
    network, reductions = TABLE_5[dataset]
    return {r: df(dataset, reduction=r, network=network) for r in reductions}


def twice(dataset: str, **length) -> dict[str, Experiment]:
    """Both kinds of compression: DF for MACs, and ADMM on what it built for bits.

    The rate is of the dense network's bits.
    """
    hybrid = df(dataset, reduction=0.5, **length)
    epochs = {"short": 8, "cpu": admm_table_4.CPU["compress"]}.get(length.get("length"))
    rate = 20 if dataset == "digits" else 35.4
    schedule = admm_schedule(dataset, hybrid.network, epochs)
    budget = bits_at(rate, hybrid.network, dataset)
    knobs = {"rho": RHO, "start_bits": 2, "growth": growth(20, schedule.epochs)}
    both = compressed(
        hybrid,
        f"{hybrid.slug}-admm-{rate:g}x-{schedule.epochs}ep",
        stage("admm", schedule, budget=budget, **knobs),
        mode="joint",
        budget=budget,
    )
    return {"hybrid": hybrid, "both": both}


def entries(dataset: str) -> Iterator[Entry]:
    """What is wanted of DF and its baselines on a data set."""
    if dataset == "digits":
        yield from _figures(dataset, 1, 1, 1, 1)
        return
    gpu = dataset in ("cifar10", "cifar100")
    if dataset != "cifar100":
        yield from _figures(dataset, *((spec.FULL,) * 4 if gpu else (1, 2, 2, 3)))
    yield from wanted(table_5(dataset).values(), "DF Table 5", spec.FULL if gpu else 3)
    if not gpu:
        yield from _figures(dataset, 4, 4, 4, 4, **short(dataset))


def _figures(
    dataset: str, first: float, halves: float, others: float, last: float, **length
) -> Iterator[Entry]:
    """The rows of all figures, by how much they are wanted."""
    urgent = dict.fromkeys(HALVES, halves) | {"hybrid": first}
    for (name, reduction), row in curve(dataset, **length).items():
        seeds = 3 if name == "hybrid" and reduction == 0.5 and dataset != "digits" else 1
        soon = reduction in REDUCTIONS[dataset][:3]
        priority = urgent.get(name, others) if soon else last
        yield Entry(row, "DF Table 3, Figures 3a and 4", priority, seeds)
    for part, purpose, priority in (
        (schedule_rows, "DF Table 1", last),
        (schemes, "DF Figure 5", last),
        (as_printed, "DF nearer to the letter", last),
        (binary, "DF with binary masks", others),
        (trials, "DF's β and C", last),
        (gain, "where DF's gain comes from", last),
        (twice, "both kinds of compression at once", others),
    ):
        # the short schedule has no dense network without the held-out images
        if not (length and part is trials):
            yield from wanted(part(dataset, **length).values(), purpose, priority)
