"""Head to head: ADMM, LC and the baselines, from one start to one budget in as many epochs."""

from collections.abc import Iterable
from dataclasses import replace

from lib.accounting import shares
from lib.training import Schedule
from lib.workbook.experiments.recipes import PULL, admm_schedule, dense, layer_weights, weights
from lib.workbook.experiments.spec import Entry, Experiment, Stage

DATASETS = ("mnist", "digits")

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
    "gradual": (
        {"until": 0.9, "bits": 2},
        {"until": 1.0, "bits": 2},
        {"until": 0.9, "bits": 3},
    ),
    "ye": ({"rho": 1e-3, "bits": 3}, {"rho": 3e-3, "bits": 4}, {"rho": 1e-3, "bits": 4}),
}

#: The best of the six.
TUNED = {
    "admm": {"rho": 0.01, "rise": 20, "bits": 1},
    "lc": {"mu": 3e-4, "bits": 3},
    "deep-compression": {"by_hand": False, "bits": 2},
    "gradual": {"until": 0.75, "bits": 2},
    "ye": {"rho": 3e-3, "bits": 3},
    "fixed-bitwidth": {"bits": 3},
}

#: A trial of the black-box search is trained for so many epochs.
SEARCH = {
    ("lenet300", "mnist"): {"trials": 40, "epochs": 4},
    ("lenet5", "mnist"): {"trials": 30, "epochs": 1},
    ("lenet300", "digits"): {"trials": 10, "epochs": 2},
}

#: ADMM with the paper's constant ρ, a row of its own: the better of its two among ADMM's trials.
PAPERS = {"admm-constant": {"rho": 0.05, "rise": 1, "bits": 2}}

#: Methods in the order of the table.
METHODS = (
    "admm",
    "admm-constant",
    "lc",
    "deep-compression",
    "gradual",
    "ye",
    "fixed-bitwidth",
    "black-box",
)

#: Methods on a network that takes longer.
FEWER = ("admm", "lc", "deep-compression", "black-box")

#: Quantization alone, no weight pruned: bits of every weight, at most 32 times smaller.
WIDTHS = (1, 2, 4)

#: What is made of ADMM's allocation: its layers' shares and bits, by weights chosen otherwise, and
#: as many weights of as many bits by one threshold for all layers.
ALLOCATIONS = ("magnitude", "random", "scratch", "magnitude-scratch", "threshold")
ALLOCATION_RATE = {"mnist": 500, "digits": 200}


def head_to_head(dataset: str, network: str, method: str, rate: float, **knobs) -> Experiment:
    """One row: ``method``, one of ``METHODS``, from the dense network to a nominal rate.

    ``knobs`` take the place of the tuned ones, on images held out of the training split. Raises
    ``ValueError`` for another method, and for knobs of the black-box search, which has none.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if knobs and method not in TRIALS:
        raise ValueError(f"{method!r} has no knobs, so no trial of {knobs}")
    budget = int(32 * weights(network) / rate)
    start = dense(dataset, network=network, held_out=bool(knobs))
    first, second = schedules(dataset, network)
    like, pull = None, PULL[dataset]
    if method == "black-box":
        like = searched(dataset, network, rate)
        options = ({"keep": "like", "scope": "layer"}, {"bits": "like"})
        stages = zip(("magnitude", "tune-codebooks"), options, (first, second), strict=True)
    else:
        knobs = knobs or (TUNED | PAPERS)[method]
        stages = BUILDERS[method](network, budget, first, second, pull, **knobs)
    trial = "".join(f"-{name}{value:g}" for name, value in knobs.items()) if start.held_out else ""
    return Experiment(
        slug=f"{network}-{dataset}-{method}-{rate:g}x-{first.epochs + second.epochs}ep{trial}",
        dataset=dataset,
        network=network,
        stages=_stages(stages),
        parent=start,
        mode="joint" if BUILDERS.get(method) is _admm else method,
        budget=budget,
        held_out=start.held_out,
        like=like,
    )


def schedules(dataset: str, network: str) -> tuple[Schedule, Schedule]:
    """Of the compression, and of the training of its values, at a tenth of the learning rate."""
    first, second = EPOCHS[network, dataset]
    schedule = admm_schedule(dataset, network, first)
    return schedule, replace(schedule, epochs=second, warmup=0, lr=schedule.lr / 10)


def _admm(network, budget, first, second, pull, *, rho, rise, bits):
    growth = round(rise ** (1 / first.epochs), 3)
    options = {"budget": budget, "rho": pull * rho, "start_bits": bits, "growth": growth}
    return ("admm", options, first), ("tune-codebooks", {}, second)


def _lc(network, budget, first, second, pull, *, mu, bits):
    # μ rises 500-fold
    growth = round(500 ** (1 / first.epochs), 3)
    keep = _keep(network, budget, bits)
    options = {"cost": "l0-constraint", "amount": keep, "mu": pull * mu, "growth": growth}
    return ("lc", options, first), ("tune-codebooks", {"bits": bits}, second)


def _deep_compression(network, budget, first, second, pull, *, by_hand, bits):
    options = {"keep": _keep(network, budget, bits)}
    if by_hand:
        options = {"keep": _by_hand(network, budget, bits), "scope": "layer"}
    return ("magnitude", options, first), ("tune-codebooks", {"bits": bits}, second)


def _gradual(network, budget, first, second, pull, *, until, bits):
    options = {"keep": _keep(network, budget, bits), "epochs": int(until * first.epochs)}
    return ("magnitude", options, first), ("tune-codebooks", {"bits": bits}, second)


def _ye(network, budget, first, second, pull, *, rho, bits):
    """ADMM with a constant ρ that prunes each layer to a share, then one that shares values."""
    common = {"mu": pull * rho, "growth": 1.0, "scope": "layer"}
    pruning = {"cost": "l0-constraint", "amount": _by_hand(network, budget, bits)}
    sharing = {"cost": "codebook", "amount": 2**bits}
    return ("lc", pruning | common, first), ("lc", sharing | common, second)


def _fixed_bitwidth(network, budget, first, second, pull, *, bits):
    options = {"keep": _keep(network, budget, bits), "scope": "layer"}
    return ("magnitude", options, first), ("tune-codebooks", {"bits": bits}, second)


BUILDERS = {
    "admm": _admm,
    "admm-constant": _admm,
    "lc": _lc,
    "deep-compression": _deep_compression,
    "gradual": _gradual,
    "ye": _ye,
    "fixed-bitwidth": _fixed_bitwidth,
}


def _keep(network: str, budget: int, bits: int) -> float:
    return min(1.0, budget / (bits * weights(network)))


def _by_hand(network: str, budget: int, bits: int) -> tuple[float, ...]:
    """``BY_HAND``, scaled to the budget."""
    costs = [bits * n for n in layer_weights(network)]
    return tuple(shares(BY_HAND[network], costs, budget))


def searched(dataset: str, network: str, rate: float) -> Experiment:
    """The search that the black-box row takes its rates from, on held-out images."""
    budget = int(32 * weights(network) / rate)
    found = SEARCH[network, dataset]
    schedule = replace(admm_schedule(dataset, network, found["epochs"]), warmup=0, lr=0.02)
    stage = ("black-box", {"budget": budget, "trials": found["trials"]}, schedule)
    return Experiment(
        slug=f"{network}-{dataset}-search-{rate:g}x-{found['trials']}x{found['epochs']}ep",
        dataset=dataset,
        network=network,
        stages=_stages([stage]),
        parent=dense(dataset, network=network, held_out=True),
        mode="search",
        budget=budget,
        held_out=True,
    )


def fixed_width(dataset: str, bits: int) -> Experiment:
    """LeNet-300-100 with 2ᵇ values a layer by k-means, zero one of them at best, and trained."""
    network = "lenet300"
    first, second = schedules(dataset, network)
    made = ("tune-codebooks", {"bits": bits, "free_zero": False}, first)
    return Experiment(
        slug=f"{network}-{dataset}-kmeans-{bits}bits-{first.epochs + second.epochs}ep",
        dataset=dataset,
        network=network,
        stages=_stages([made, ("tune-codebooks", {}, second)]),
        parent=dense(dataset, network=network),
        mode="quantize",
        budget=bits * weights(network),
    )


def allocation(dataset: str, kind: str) -> Experiment:
    """ADMM's shares and bits of each layer; the weights that stay by ``kind``.

    ``magnitude`` keeps the largest of the dense network, ``random`` any, ``scratch`` ADMM's own,
    trained from new values, as long as the dense network and what followed; ``magnitude-scratch``
    those of ``magnitude``, likewise. ``threshold`` has ADMM's bits and as many weights in all, the
    largest of all layers together, whichever layer they are of.
    """
    network, rate = "lenet300", ALLOCATION_RATE[dataset]
    start, (first, second) = dense(dataset, network=network), schedules(dataset, network)
    pruning = {"keep": "like", "scope": "layer", "order": kind}
    stages = [("magnitude", pruning, first)]
    scratch = kind in ("scratch", "magnitude-scratch")
    if scratch:
        whole = start.stages[0].schedule
        stages = [("held-zeros", {}, whole), ("held-zeros", {}, first)]
    elif kind != "random":
        del pruning["order"]
    if kind == "threshold":
        pruning["scope"] = "global"
    stages.append(("tune-codebooks", {"bits": "like"}, second))
    return Experiment(
        slug=f"{network}-{dataset}-allocation-{kind}-{rate:g}x",
        dataset=dataset,
        network=network,
        stages=_stages(stages),
        parent=None if scratch else start,
        mode=f"allocation-{kind}",
        budget=int(32 * weights(network) / rate),
        like=allocation(dataset, "magnitude")
        if kind == "magnitude-scratch"
        else head_to_head(dataset, network, "admm", rate),
    )


def _stages(parts: Iterable[tuple[str, dict, Schedule]]) -> tuple[Stage, ...]:
    return tuple(
        Stage(method=method, schedule=schedule, options=tuple(sorted(options.items())))
        for method, options, schedule in parts
    )


def rows(dataset: str, network: str) -> dict[tuple[str, float], Experiment]:
    """The figure's rows on one network: (method, nominal rate) → experiment."""
    return {
        (method, rate): head_to_head(dataset, network, method, rate)
        for method in (FEWER if network == "lenet5" else METHODS)
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


def entries(dataset: str) -> list[Entry]:
    """What the catalogue holds of the comparison on a data set."""
    seeds = 3 if dataset == "mnist" else 2
    found = []
    for network in RATES[dataset]:
        compressed = list(rows(dataset, network).values())
        before = [r.parent for r in compressed] + [r.control for r in compressed]
        before += [r.like.parent for r in compressed if r.like]
        before += [r.like for r in compressed if r.like]
        found += [(b, seeds, "head to head: what its rows need", 1) for b in dict.fromkeys(before)]
        found += [(r, seeds, "head to head", 1) for r in compressed]
    found += [
        (fixed_width(dataset, b), 3 if dataset == "mnist" else 1, "k-means at a fixed width", 2)
        for b in WIDTHS
    ]
    found += [
        (allocation(dataset, kind), seeds, "what the allocation earns", 1) for kind in ALLOCATIONS
    ]
    if dataset == "mnist":
        made = [trial for settings in trials().values() for trial in settings]
        found += [(t, 1, "head to head: a trial on held-out images", 2) for t in made]
    return [
        Entry(experiment=e, seeds=count, purpose=purpose, priority=priority)
        for e, count, purpose, priority in found
    ]
