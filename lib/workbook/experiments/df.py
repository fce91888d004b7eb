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
from lib.layers import compressible
from lib.training import Schedule
from lib.workbook.experiments import admm_table_4, spec
from lib.workbook.experiments.recipes import RHO, admm_schedule, classes, dense, dense_schedule
from lib.workbook.experiments.spec import Entry, Experiment, Stage

DATASETS = ("cifar10-jpeg", "cifar10", "digits", "cifar100")

#: The network of each data set's rows; ResNet-20 in a short schedule for where there is no GPU.
NETWORK = dict.fromkeys(DATASETS, "resnet56") | {"digits": "resnet8"}

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

#: The methods that choose at once: by their name in a slug.
BASELINES = {
    "l1": ("filter-pruning", {"score": "l1"}),
    "group-magnitude": ("filter-pruning", {"score": "group-magnitude"}),
    "svd-uniform": ("low-rank", {"criterion": "uniform"}),
    "svd-energy": ("low-rank", {"criterion": "energy"}),
}

#: DF and its two halves.
HALVES = ("hybrid", "filters", "ranks")

#: The share of the MACs that goes in the rows of which a CPU trains one.
CPU_BASELINES = 0.6

#: The grid of β and C, tried on held-out images; β = 4 is the paper's, C is left open there.
TRIED = {"beta": (4.0, 2.0, 8.0), "steepness": (5.0, 2.5, 10.0)}

#: How LC learns ranks, in 16 C steps: μ rises by this at each, some 200-fold in all.
LC_GROWTH = 1.4


def short(dataset: str) -> dict[str, object]:
    """What makes a row one of the short schedule, on the network of a CPU."""
    if dataset == "digits":
        return {}
    return {"network": "resnet20", "length": "short"}


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
    return cpu() if length == "cpu" else short(dataset)


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
    """DF to a share of MACs, then trained on; ``options`` are those of ``DF``.

    ``weak``: from :func:`weak_start`, and trained on at as small a share of its rate.
    """
    epochs = _epochs(dataset, length)
    network = network or NETWORK[dataset]
    given = {"mode": mode} | (PRINTED if printed else DF_OPTIONS) | options
    given["periods_per_epoch"] = epochs["periods_per_epoch"]
    said = "".join(f"-{k}{v}" for k, v in sorted(options.items()))
    return _compressed(
        dataset,
        network,
        length,
        method="df",
        mode=mode,
        reduction=reduction,
        options=given,
        name=f"df-{mode}{'-weak' if weak else ''}{'-printed' if printed else ''}{said}",
        held_out=held_out,
        exact=not printed,
        weak=weak,
    )


def baseline(
    dataset: str, *, name: str, reduction: float, network: str | None = None, length: str = "full"
) -> Experiment:
    """One of ``BASELINES``, trained on for as many epochs."""
    method, options = BASELINES[name]
    return _compressed(
        dataset,
        network or NETWORK[dataset],
        length,
        method=method,
        mode=name,
        reduction=reduction,
        options=options,
        name=name,
    )


def lc_ranks(
    dataset: str, *, reduction: float, network: str | None = None, length: str = "full"
) -> Experiment:
    """LC with learned ranks: it learns them in the epochs in which DF does."""
    periods = _epochs(dataset, length)["periods_per_epoch"]
    return _compressed(
        dataset,
        network or NETWORK[dataset],
        length,
        method="lc-ranks",
        mode="lc-ranks",
        reduction=reduction,
        options={"growth": LC_GROWTH, "periods_per_epoch": periods},
        name="lc-ranks",
    )


def scratch(compressed: Experiment) -> Experiment:
    """The network that was built, trained from new weights for as many epochs as all before it."""
    dense_stage = compressed.parent.stages[0].schedule
    schedule = replace(dense_stage, epochs=dense_stage.epochs + compressed.epochs)
    return Experiment(
        slug=f"{compressed.slug}-from-scratch",
        dataset=compressed.dataset,
        network=compressed.network,
        stages=(Stage(method="sgd", schedule=schedule),),
        like=compressed,
        mode="from-scratch",
        budget=compressed.budget,
        budget_in="macs",
    )


def both(compressed: Experiment, *, rate: float, epochs: int, **options) -> Experiment:
    """ADMM on the network that was built: ``rate`` is of the dense network's bits."""
    weights = dense_weights(compressed.dataset, compressed.network)
    options = {"budget": int(32 * weights / rate), "rho": RHO, "start_bits": 2} | options
    schedule = admm_schedule(compressed.dataset, compressed.network, epochs)
    return Experiment(
        slug=f"{compressed.slug}-admm-{rate:g}x-{schedule.epochs}ep",
        dataset=compressed.dataset,
        network=compressed.network,
        stages=(Stage(method="admm", schedule=schedule, options=_sorted(options)),),
        parent=compressed,
        mode="joint",
        budget=options["budget"],
    )


@cache
def dense_macs(dataset: str, network: str) -> int:
    """MACs of one image of the data set in the whole network.

    As ``budget.macs`` counts them, without the seconds that its counter takes to be imported.
    """
    whole = structured.layers(_whole(dataset, network), input_shape=input_shape(dataset, network))
    return sum(layer.macs() for layer in whole.values())


@cache
def dense_weights(dataset: str, network: str) -> int:
    """The whole network's compressible weights, of the data set's channels."""
    return sum(w.numel() for w in compressible(_whole(dataset, network)).values())


def input_shape(dataset: str, network: str) -> tuple[int, int, int]:
    """(channels, height, width) of an image as the network reads it."""
    channels = 1 if dataset == "digits" else 3
    if dataset in FORMS:
        return channels, FORMS[dataset].crop, FORMS[dataset].crop
    return (channels, *networks.INPUT_SHAPES[network][1:])


def _whole(dataset: str, network: str) -> torch.nn.Module:
    """Without values: counting takes no time."""
    channels, *_ = input_shape(dataset, network)
    with torch.device("meta"):
        return networks.build(network, classes=classes(dataset), channels=channels)


def _epochs(dataset: str, length: str) -> dict[str, int]:
    own = {"digits": DIGITS, "imagenet": IMAGENET, "imagenet-sample": SAMPLE}
    return own.get(dataset) or {"full": FULL, "short": SHORT, "cpu": CPU}[length]


def _schedule(start: Experiment, length: str) -> Schedule:
    """How what is left is trained on: a cosine without a warm-up, at a tenth of its start's rate.

    Half of it in a short schedule, whose dense network has not come to rest. On ImageNet it is the
    paper's.
    """
    if start.dataset == "imagenet":
        return IMAGENET_SCHEDULE
    tune = _epochs(start.dataset, length)["tune"]
    slower = 2 if start.dataset in paths.APART or length == "short" else 10
    schedule = dense_schedule(start.dataset, start.network, tune)
    return replace(schedule, warmup=0, lr=start.stages[0].schedule.lr / slower)


def _start(dataset: str, network: str, length: str, held_out: bool = False) -> Experiment:
    epochs = {"short": SHORT_DENSE, "cpu": admm_table_4.CPU["trial" if held_out else "dense"]}
    return dense(dataset, network=network, epochs=epochs.get(length), held_out=held_out)


def weak_start(dataset: str, *, network: str | None = None, length: str = "full") -> Experiment:
    """The paper's baseline: the dense network as ours is trained, at ``WEAK_LR`` (Table 2)."""
    start = _start(dataset, network or NETWORK[dataset], length)
    (stage,) = start.stages
    slower = replace(stage, schedule=replace(stage.schedule, lr=WEAK_LR))
    return replace(start, slug=f"{start.slug}-weak", stages=(slower,))


def _budget(dataset: str, network: str, reduction: float) -> dict[str, object]:
    return {
        "budget": int(dense_macs(dataset, network) * (1 - reduction)),
        "input_shape": input_shape(dataset, network),
    }


def _compressed(
    dataset: str,
    network: str,
    length: str,
    *,
    method: str,
    mode: str,
    reduction: float,
    options: dict,
    name: str,
    held_out: bool = False,
    exact: bool = True,
    weak: bool = False,
) -> Experiment:
    """A method that chooses, in epochs of its own or at once, and the training of what is left."""
    epochs = _epochs(dataset, length)
    start = _start(dataset, network, length, held_out)
    if weak:
        start = weak_start(dataset, network=network, length=length)
    tune = _schedule(start, length)
    choose = replace(tune, epochs=epochs["choose"])
    options = options | _budget(dataset, network, reduction)
    if method in ("df", "lc-ranks"):
        chosen = (Stage(method=method, schedule=choose, options=_sorted(options)),)
    else:
        at_once = replace(tune, epochs=0)
        chosen = (
            Stage(method=method, schedule=at_once, options=_sorted(options)),
            Stage(method="sgd", schedule=choose),
        )
    details = f"{100 * reduction:g}pct-{epochs['choose']}+{tune.epochs}ep"
    return Experiment(
        slug=f"{network}-{dataset}-{name}-{details}{'-held-out' if held_out else ''}",
        dataset=dataset,
        network=network,
        # on held-out images the choice alone is looked at
        stages=chosen if held_out else (*chosen, Stage(method="sgd", schedule=tune)),
        parent=start,
        mode=mode,
        budget=options["budget"] if exact else None,
        budget_in="macs" if exact else "bits",
        held_out=held_out,
    )


def _sorted(options: dict) -> tuple[tuple[str, object], ...]:
    return tuple(sorted(options.items()))


def curve(dataset: str, **length) -> dict[tuple[str, float], Experiment]:
    """(method, reduction) → the rows of Figures 3a and 4: DF, its halves and the baselines.

    Outside of the full schedule at the first three shares alone, and by the one for a CPU the
    baselines at ``CPU_BASELINES`` alone.
    """
    asked = REDUCTIONS[dataset][: 3 if length else None]
    return {
        (name, reduction): row
        for reduction in asked
        for name, row in _rows(dataset, reduction, **length).items()
        if length.get("length") != "cpu" or name in HALVES or reduction == CPU_BASELINES
    }


def _rows(dataset: str, reduction: float, **length) -> dict[str, Experiment]:
    place = {"reduction": reduction, **length}
    return {
        **{mode: df(dataset, mode=mode, **place) for mode in HALVES},
        **{name: baseline(dataset, name=name, **place) for name in BASELINES},
        "lc-ranks": lc_ranks(dataset, **place),
    }


def schedule_rows(dataset: str, **length) -> dict[tuple[bool, float], Experiment]:
    """(with the schedule, reduction) → Table 1's rows, filters alone."""
    return {
        (scheduled, reduction): df(
            dataset,
            reduction=reduction,
            mode="filters",
            **({} if scheduled else {"beta": 0}),
            **length,
        )
        for reduction in table_1_reductions(dataset)
        for scheduled in (True, False)
    }


def table_1_reductions(dataset: str) -> tuple[float, ...]:
    """Table 1's shares, or those that ``digits`` has anyway."""
    return REDUCTIONS[dataset] if dataset == "digits" else (0.5, 0.6, 0.7)


def schemes(dataset: str, **length) -> dict[tuple[int, float], Experiment]:
    """(scheme, reduction) → Figure 5's rows, the hybrid in both matricizations."""
    return {
        (scheme, reduction): df(
            dataset, reduction=reduction, **({} if scheme == 1 else {"scheme": 2}), **length
        )
        for reduction in REDUCTIONS[dataset][:3]
        for scheme in (1, 2)
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
    return {
        (beta, steepness): df(
            dataset, reduction=0.6, held_out=True, beta=beta, steepness=steepness, **length
        )
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
    """Both kinds of compression: DF for MACs, and ADMM on what it built for bits."""
    hybrid = df(dataset, reduction=0.5, **length)
    epochs = {"full": 120, "short": 8, "cpu": admm_table_4.CPU["compress"]}[
        length.get("length", "full")
    ]
    rate = 35.4
    if dataset == "digits":
        epochs, rate = 10, 20
    growth = round(20 ** (1 / epochs), 3)
    return {"hybrid": hybrid, "both": both(hybrid, rate=rate, epochs=epochs, growth=growth)}


def entries(dataset: str) -> list[Entry]:
    """What the catalogue holds of DF and its baselines on a data set."""
    gpu = dataset in ("cifar10", "cifar100")
    return [
        Entry(experiment=experiment, seeds=seeds, purpose=purpose, priority=priority, gpu=gpu)
        for experiment, seeds, purpose, priority in _with_needs(_entries(dataset))
    ]


def _entries(dataset: str) -> Iterator[tuple[Experiment, int, str, int]]:
    if dataset == "digits":
        yield from _figures(dataset, (1, 1, 1, 1), {})
        return
    if dataset == "cifar100":
        yield from ((row, 1, "DF Table 5", spec.FULL) for row in table_5(dataset).values())
        return
    if dataset == "cifar10":
        yield from _figures(dataset, (spec.FULL,) * 4, {})
        yield from ((row, 1, "DF Table 5", spec.FULL) for row in table_5(dataset).values())
        return
    yield from _figures(dataset, (1, 2, 2, 3), {})
    yield from ((row, 1, "DF Table 5", 3) for row in table_5(dataset).values())
    yield from _figures(dataset, (4, 4, 4, 4), short(dataset))


def _figures(
    dataset: str, priorities: tuple[int, int, int, int], length: dict
) -> Iterator[tuple[Experiment, int, str, int]]:
    first, halves, others, last = priorities
    wanted = REDUCTIONS[dataset][:3]
    for (name, reduction), row in curve(dataset, **length).items():
        seeds = 3 if name == "hybrid" and reduction == 0.5 and dataset != "digits" else 1
        urgent = {"hybrid": first, "filters": halves, "ranks": halves}.get(name, others)
        # a CPU runs the first three alone
        if length and reduction not in wanted:
            continue
        yield row, seeds, "DF Table 3, Figures 3a and 4", urgent if reduction in wanted else last
    for row in schedule_rows(dataset, **length).values():
        yield row, 1, "DF Table 1", last
    for row in schemes(dataset, **length).values():
        yield row, 1, "DF Figure 5", last
    for row in as_printed(dataset, **length).values():
        yield row, 1, "DF nearer to the letter", last
    for row in binary(dataset, **length).values():
        yield row, 1, "DF with binary masks", others
    if not length:  # the short schedule has no dense network without the held-out images
        for row in trials(dataset).values():
            yield row, 1, "DF's β and C", last
    for row in gain(dataset, **length).values():
        yield row, 1, "where DF's gain comes from", last
    for row in twice(dataset, **length).values():
        yield row, 1, "both kinds of compression at once", others


def _with_needs(
    found: Iterator[tuple[Experiment, int, str, int]],
) -> Iterator[tuple[Experiment, int, str, int]]:
    """Each row with what it starts from and its control before it."""
    for row, seeds, purpose, priority in found:
        for need in (row.parent, row.control):
            if need is not None and all(stage.method == "sgd" for stage in need.stages):
                yield need, seeds, f"{purpose}: start or control", priority
        yield row, seeds, purpose, priority
