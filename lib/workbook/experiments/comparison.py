"""Head to head: ADMM, LC and the baselines, from one start to one budget in as many epochs."""

from collections.abc import Iterator
from dataclasses import replace

from lib.accounting import shares
from lib.training import Schedule
from lib.workbook.experiments.recipes import (
    PULL,
    admm_schedule,
    bits_at,
    dense,
    growth,
    layer_weights,
    slower,
    weights,
)
from lib.workbook.experiments.spec import Entry, Experiment, Stage, compressed, stage, wanted

#: Nominal rates asked for, by data set and network.
RATES = {
    "mnist": {"lenet300": (100, 500, 2_000), "lenet5": (500, 2_000)},
    "digits": {"lenet300": (50, 200)},
}

#: Epochs of the compression, and of the training of the values that are left, or of what the
#: method has in its place.
EPOCHS = {
    ("lenet300", "mnist"): (45, 15),
    ("lenet5", "mnist"): (15, 5),
    ("lenet300", "digits"): (30, 10),
}

#: What each layer keeps, relative to the others, where that is set by hand: Han et al., "Learning
#: both Weights and Connections" (NIPS 2015), Tables 3 and 4.
BY_HAND = {"lenet300": (0.08, 0.09, 0.26), "lenet5": (0.66, 0.12, 0.08, 0.19)}

#: Six settings of each method's own knobs, tried on held-out images at 500×, seed 0, the first of
#: the best taken for every rate, network and data set. The black-box search tries for itself. Some
#: of the best lie at an edge of what was tried, and some others are within a standard error of them
#: (:func:`lib.workbook.report.comparison.edges`; 0.18 points at 98.3 % of 5,000 images).
TRIALS = {
    "admm": tuple(
        {"rho": rho, "rise": rise, "bits": bits}
        for rho, rise in ((0.01, 20), (0.05, 20), (0.05, 1))
        for bits in (1, 2)
    ),
    "lc": tuple({"mu": mu, "bits": bits} for mu in (3e-4, 1e-3) for bits in (1, 2, 3)),
    "deep-compression": tuple(
        {"by_hand": by_hand, "bits": bits} for by_hand in (False, True) for bits in (1, 2, 3)
    ),
    "gradual": tuple({"until": until, "bits": bits} for until in (0.5, 0.75) for bits in (1, 2, 3)),
    "ye": tuple({"rho": rho, "bits": bits} for rho in (3e-3, 3e-2) for bits in (1, 2, 3)),
    "fixed-bitwidth": tuple({"bits": bits} for bits in (1, 2, 3, 4, 5, 6)),
}

#: More settings of the methods whose choice lies on an edge of those six, beyond that edge. One of
#: them is taken instead where it is better by more than one standard error of the difference on
#: the held-out images, paired image by image.
WIDER = {
    "admm": (
        {"rho": 0.003, "rise": 20, "bits": 1},
        {"rho": 0.01, "rise": 60, "bits": 1},
        {"rho": 0.003, "rise": 60, "bits": 1},
    ),
    "lc": ({"mu": 1e-4, "bits": 3}, {"mu": 3e-4, "bits": 4}, {"mu": 1e-4, "bits": 4}),
    "gradual": ({"until": 0.9, "bits": 2}, {"until": 1.0, "bits": 2}, {"until": 0.9, "bits": 3}),
    "ye": ({"rho": 1e-3, "bits": 3}, {"rho": 3e-3, "bits": 4}, {"rho": 1e-3, "bits": 4}),
}

#: ADMM with the paper's constant ρ, a row of its own: the better of its two among ADMM's trials.
PAPERS = {"admm-constant": {"rho": 0.05, "rise": 1, "bits": 2}}

#: The best of the six.
TUNED = {
    "admm": {"rho": 0.01, "rise": 20, "bits": 1},
    **PAPERS,
    "lc": {"mu": 3e-4, "bits": 3},
    "deep-compression": {"by_hand": False, "bits": 2},
    "gradual": {"until": 0.75, "bits": 2},
    "ye": {"rho": 3e-3, "bits": 3},
    "fixed-bitwidth": {"bits": 3},
}

#: Methods in the order of the table.
METHODS = (*TUNED, "black-box")

#: A trial of the black-box search is trained for so many epochs.
SEARCH = {
    ("lenet300", "mnist"): {"trials": 40, "epochs": 4},
    ("lenet5", "mnist"): {"trials": 30, "epochs": 1},
    ("lenet300", "digits"): {"trials": 10, "epochs": 2},
}

#: Methods on LeNet-5, which takes longer.
LENET5_METHODS = ("admm", "lc", "deep-compression", "black-box")

#: Quantization alone, no weight pruned: bits of every weight, at most 32 times smaller.
WIDTHS = (1, 2, 4)

#: What is made of ADMM's allocation: its layers' shares and bits, by weights chosen otherwise, and
#: as many weights of as many bits by one threshold for all layers.
ALLOCATIONS = ("magnitude", "random", "scratch", "magnitude-scratch", "threshold")
ALLOCATION_RATE = {"mnist": 500, "digits": 200}


def head_to_head(dataset: str, network: str, method: str, rate: float, **knobs) -> Experiment:
    """One row: ``method``, one of ``METHODS``, from the dense network to a nominal rate.

    ``knobs`` take the place of the tuned ones, on images held out of the training split. Raises
    ``ValueError`` for another method, and for knobs that it has not.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    usual = TRIALS.get(method, ({},))[0]
    if knobs and knobs.keys() != usual.keys():
        raise ValueError(f"{method!r} has {', '.join(usual) or 'no knobs'}: no trial of {knobs}")
    start = dense(dataset, network=network, held_out=bool(knobs))
    budget = bits_at(rate, network, dataset)
    stages = _stages(dataset, network, method, budget, knobs or TUNED.get(method, {}))
    trial = "".join(f"-{name}{value:g}" for name, value in knobs.items())
    return _row(
        start,
        f"{method}-{rate:g}x-{sum(s.epochs for s in stages)}ep{trial}",
        stages,
        "joint" if method in ("admm", "admm-constant") else method,
        budget,
        like=searched(dataset, network, rate) if method == "black-box" else None,
    )


def _row(
    start: Experiment, name: str, stages: tuple[Stage, ...], mode: str, budget: int, **others
) -> Experiment:
    slug = f"{start.network}-{start.dataset}-{name}"
    return compressed(start, slug, *stages, mode=mode, budget=budget, **others)


def schedules(dataset: str, network: str) -> tuple[Schedule, Schedule]:
    """Of the compression, and of the training of its values, at a tenth of the learning rate."""
    first, second = EPOCHS[network, dataset]
    schedule = admm_schedule(dataset, network, first)
    return schedule, slower(schedule, second)


def _stages(
    dataset: str, network: str, method: str, budget: int, knobs: dict
) -> tuple[Stage, Stage]:
    """What a method does with its knobs."""
    first, second = schedules(dataset, network)
    bits, pull = knobs.get("bits", 1), PULL[dataset]
    keep = min(1.0, budget / (bits * weights(network)))
    tune = stage("tune-codebooks", second, bits=bits)
    each = {"scope": "layer"}
    match method:
        case "admm" | "admm-constant":
            rises = {"rho": pull * knobs["rho"], "growth": growth(knobs["rise"], first.epochs)}
            compressing = stage("admm", first, budget=budget, start_bits=bits, **rises)
            return compressing, stage("tune-codebooks", second)
        case "lc":  # μ rises 500-fold
            rises = {"mu": pull * knobs["mu"], "growth": growth(500, first.epochs)}
            return stage("lc", first, cost="l0-constraint", amount=keep, **rises), tune
        case "ye":  # ADMM with a constant ρ that prunes each layer to a share, then shares values
            each |= {"mu": pull * knobs["rho"], "growth": 1.0}
            kept = _by_hand(network, budget, bits)
            return (
                stage("lc", first, cost="l0-constraint", amount=kept, **each),
                stage("lc", second, cost="codebook", amount=2**bits, **each),
            )
        case "gradual":
            epochs = int(knobs["until"] * first.epochs)
            return stage("magnitude", first, keep=keep, epochs=epochs), tune
        case "fixed-bitwidth":
            return stage("magnitude", first, keep=keep, **each), tune
        case "black-box":
            tune = stage("tune-codebooks", second, bits="like")
            return stage("magnitude", first, keep="like", **each), tune
        case _:  # Deep Compression
            if knobs["by_hand"]:
                kept = _by_hand(network, budget, bits)
                return stage("magnitude", first, keep=kept, **each), tune
            return stage("magnitude", first, keep=keep), tune


def _by_hand(network: str, budget: int, bits: int) -> tuple[float, ...]:
    """``BY_HAND``, scaled to the budget."""
    costs = [bits * n for n in layer_weights(network)]
    return tuple(shares(BY_HAND[network], costs, budget))


def searched(dataset: str, network: str, rate: float) -> Experiment:
    """The search that the black-box row takes its rates from, on held-out images."""
    trials, epochs = SEARCH[network, dataset].values()
    schedule = replace(admm_schedule(dataset, network, epochs), warmup=0, lr=0.02)
    budget = bits_at(rate, network, dataset)
    return _row(
        dense(dataset, network=network, held_out=True),
        f"search-{rate:g}x-{trials}x{epochs}ep",
        (stage("black-box", schedule, budget=budget, trials=trials),),
        "search",
        budget,
    )


def fixed_width(dataset: str, bits: int) -> Experiment:
    """LeNet-300-100 with 2ᵇ values a layer by k-means, zero one of them at best, and trained."""
    first, second = schedules(dataset, "lenet300")
    made = stage("tune-codebooks", first, bits=bits, free_zero=False)
    return _row(
        dense(dataset, network="lenet300"),
        f"kmeans-{bits}bits-{first.epochs + second.epochs}ep",
        (made, stage("tune-codebooks", second)),
        "quantize",
        bits * weights("lenet300"),
    )


def allocation(dataset: str, kind: str) -> Experiment:
    """ADMM's shares and bits of each layer; the weights that stay by ``kind``.

    ``magnitude`` keeps the largest of the dense network, ``random`` any, ``scratch`` ADMM's own,
    trained from new values, as long as the dense network and what followed; ``magnitude-scratch``
    those of ``magnitude``, likewise. ``threshold`` has ADMM's bits and as many weights in all, the
    largest of all layers together, whichever layer they are of.
    """
    rate = ALLOCATION_RATE[dataset]
    start, (first, second) = dense(dataset, network="lenet300"), schedules(dataset, "lenet300")
    scratch = kind.endswith("scratch")
    if scratch:
        stages = [stage("held-zeros", start.stages[0].schedule), stage("held-zeros", first)]
    else:
        scope = "global" if kind == "threshold" else "layer"
        order = {"order": kind} if kind == "random" else {}
        stages = [stage("magnitude", first, keep="like", scope=scope, **order)]
    if kind == "magnitude-scratch":
        like = allocation(dataset, "magnitude")
    else:
        like = head_to_head(dataset, "lenet300", "admm", rate)
    return _row(
        start,
        f"allocation-{kind}-{rate:g}x",
        (*stages, stage("tune-codebooks", second, bits="like")),
        f"allocation-{kind}",
        like.budget,
        like=like,
        parent=None if scratch else start,
    )


def rows(dataset: str, network: str) -> dict[tuple[str, float], Experiment]:
    """The figure's rows on one network: (method, nominal rate) → experiment."""
    return {
        (method, rate): head_to_head(dataset, network, method, rate)
        for method in (LENET5_METHODS if network == "lenet5" else METHODS)
        for rate in RATES[dataset][network]
    }


def tried() -> dict[str, tuple[dict, ...]]:
    """Method → all its settings that are tried, its six and those beyond their edges."""
    return {method: (*settings, *WIDER.get(method, ())) for method, settings in TRIALS.items()}


def trials() -> dict[str, list[Experiment]]:
    """Method → its trials, a setting of :func:`tried` each."""
    return {
        method: [head_to_head("mnist", "lenet300", method, 500, **knobs) for knobs in settings]
        for method, settings in tried().items()
    }


def entries(dataset: str) -> Iterator[Entry]:
    """What is wanted of the comparison on a data set."""
    mnist = dataset == "mnist"
    seeds = 3 if mnist else 2
    for network in RATES[dataset]:
        yield from wanted(rows(dataset, network).values(), "head to head", 1, seeds)
    widths = (fixed_width(dataset, bits) for bits in WIDTHS)
    yield from wanted(widths, "k-means at a fixed width", 2, 3 if mnist else 1)
    kinds = (allocation(dataset, kind) for kind in ALLOCATIONS)
    yield from wanted(kinds, "what the allocation earns", 1, seeds)
    for tried in trials().values() if mnist else ():
        yield from wanted(tried, "head to head: a trial on held-out images", 2)
