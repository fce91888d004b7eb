"""LC's figure of results: error and loss against the weights kept, for each cost."""

from collections.abc import Iterator
from itertools import chain

from lib.workbook.experiments.recipes import PULL, admm_schedule, dense, growth
from lib.workbook.experiments.spec import Entry, Experiment, compressed, stage, wanted

NETWORK = "lenet300-tanh"

EPOCHS = {"mnist": 60, "digits": 40}

#: Shares of the weights that stay, of the ℓ0 constraint and of magnitude pruning.
KEPT = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
KEPT_DIGITS = (0.2, 0.05, 0.02)

#: The other costs' amounts: of the norm left, or α. What they keep is measured after training.
AMOUNTS = {
    "l0-penalty": (1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4),
    "l1-constraint": (0.8, 0.5, 0.3, 0.15, 0.1, 0.07, 0.05),
    "l1-penalty": (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3),
}
AMOUNTS_DIGITS = {
    "l0-penalty": (1e-5, 3e-5, 1e-4),
    "l1-constraint": (0.1, 0.05, 0.03),
    "l1-penalty": (2e-4, 5e-4, 1e-3),
}

#: The fewest weights again, by a run three times as long.
LONGER = {"kept": 0.005, "epochs": 180}

#: Where each layer keeps the same share.
KEPT_PER_LAYER = (0.05, 0.02, 0.01)

#: Six settings each, tried on held-out images at 1 % kept, seed 0, the best taken for all: μ₀ and
#: the factor by which μ rises over the run; when gradual pruning has ended, and over which layers.
#: LC with fewer weights left over 10 % of the held-out images wrong by the best of these, and was
#: tried again at 0.5 %.
LC_SETTINGS = tuple({"mu": mu, "rise": rise} for mu in (3e-4, 1e-3, 3e-3) for rise in (300, 3_000))
TRIAL_KEPT = {"lc": 0.01, "lc-fewest": 0.005, "gradual": 0.01}
TRIALS = {
    "lc": LC_SETTINGS,
    "lc-fewest": LC_SETTINGS,
    "gradual": tuple(
        {"until": until, "scope": scope}
        for until in (0.25, 0.5, 0.75)
        for scope in ("global", "layer")
    ),
}
TUNED = {
    "lc": {"mu": 1e-3, "rise": 300},
    "lc-fewest": {"mu": 3e-3, "rise": 300},
    "gradual": {"until": 0.25, "scope": "global"},
}


def lc(
    dataset: str,
    cost: str,
    amount: float,
    *,
    mu: float | None = None,
    rise: float | None = None,
    augmented: bool = True,
    **run,
) -> Experiment:
    """LC under one cost.

    Parameters
    ----------
    mu, rise : μ starts at ``PULL``·``mu`` and is ``rise`` times that in the end; as tuned if None.
    run : ``epochs`` where they are not the usual ones, ``scope``, ``trace``, ``held_out``.
    """
    fewest = cost == "l0-constraint" and amount <= TRIAL_KEPT["lc-fewest"]
    tuned = TUNED["lc-fewest" if fewest else "lc"]
    mu, rise = mu or tuned["mu"], rise or tuned["rise"]
    factor = growth(rise, run.get("epochs") or EPOCHS[dataset], 4)
    options = {"cost": cost, "amount": amount, "mu": PULL[dataset] * mu, "growth": factor}
    said = "" if {"mu": mu, "rise": rise} == TUNED["lc"] else f"-mu{mu:g}-rise{rise:g}"
    if not augmented:  # what equals its default is left out
        options["augmented"] = augmented
        said += "-penalty-method"
    return _row(dataset, f"lc-{cost}-{amount:g}", said, "lc", cost, options, **run)


def pruned(dataset: str, keep: float, *, until: float = 0.0, **run) -> Experiment:
    """Magnitude pruning, retrained.

    Parameters
    ----------
    until : the part of the run in which it is done gradually; 0 for at once.
    run : as for :func:`lc`.
    """
    kind, options, said = "magnitude", {"keep": keep}, ""
    if until:
        kind = "gradual"
        options["epochs"] = int(until * (run.get("epochs") or EPOCHS[dataset]))
        said = "" if until == TUNED["gradual"]["until"] else f"-until{until:g}"
    return _row(dataset, f"{kind}-{keep:g}", said, "magnitude", kind, options, **run)


def _row(
    dataset: str,
    name: str,
    said: str,
    method: str,
    mode: str,
    options: dict,
    *,
    scope: str = "global",
    epochs: int | None = None,
    trace: bool = False,
    held_out: bool = False,
) -> Experiment:
    schedule = admm_schedule(dataset, NETWORK, epochs or EPOCHS[dataset])
    if scope != "global":
        options["scope"] = scope
        said = f"-per-{scope}{said}"
    ending = f"{schedule.epochs}ep{'-traced' * trace}{'-held-out' * held_out}"
    return compressed(
        dense(dataset, network=NETWORK, held_out=held_out),
        f"{NETWORK}-{dataset}-{name}{said}-{ending}",
        stage(method, schedule, **options),
        mode=mode,
        trace=trace,
    )


def curves(dataset: str) -> dict[str, list[Experiment]]:
    """What is drawn: the curve's name → its runs, from many weights kept to few."""
    kept, amounts = (KEPT_DIGITS, AMOUNTS_DIGITS) if dataset == "digits" else (KEPT, AMOUNTS)
    return {
        "l0-constraint": [lc(dataset, "l0-constraint", share) for share in kept],
        "magnitude": [pruned(dataset, share) for share in kept],
        "gradual": [pruned(dataset, share, **TUNED["gradual"]) for share in kept],
        **{cost: [lc(dataset, cost, a) for a in listed] for cost, listed in amounts.items()},
    }


def longer() -> dict[str, Experiment]:
    """LC and one-shot pruning at the fewest weights on MNIST, three times as long."""
    kept, epochs = LONGER["kept"], LONGER["epochs"]
    return {
        "l0-constraint": lc("mnist", "l0-constraint", kept, epochs=epochs),
        "magnitude": pruned("mnist", kept, epochs=epochs),
    }


def per_layer(dataset: str) -> dict[str, list[Experiment]]:
    """The same share in each layer, of LC and of magnitude pruning."""
    return {
        "l0-constraint": [lc(dataset, "l0-constraint", s, scope="layer") for s in KEPT_PER_LAYER],
        "magnitude": [pruned(dataset, s, scope="layer") for s in KEPT_PER_LAYER],
    }


def meetings(dataset: str) -> dict[str, Experiment]:
    """How w and θ meet: 2 % kept, by μ schedules and with and without multipliers, traced."""
    common = {"dataset": dataset, "cost": "l0-constraint", "amount": 0.02, "trace": True}
    return {
        "augmented Lagrangian": lc(**common),
        "quadratic penalty": lc(augmented=False, **common),
        "μ too slow": lc(rise=10, **common),
        "μ too fast": lc(mu=1.0, rise=30, **common),
    }


def trials() -> dict[str, list[Experiment]]:
    """Method → its six trials."""

    return {
        method: [
            pruned("mnist", TRIAL_KEPT[method], held_out=True, **setting)
            if method == "gradual"
            else lc("mnist", "l0-constraint", TRIAL_KEPT[method], held_out=True, **setting)
            for setting in settings
        ]
        for method, settings in TRIALS.items()
    }


def entries(dataset: str) -> Iterator[Entry]:
    """What is wanted of LC's figure on a data set."""
    figure, all_of = "LC's figure of results", chain.from_iterable
    seeds = 3 if dataset == "mnist" else 1
    yield from wanted(all_of(curves(dataset).values()), figure, 1, seeds)
    yield from wanted(all_of(per_layer(dataset).values()), f"{figure}, layer by layer", 2, seeds)
    yield from wanted(meetings(dataset).values(), "LC: w and θ meet", 2)
    if dataset == "mnist":
        yield from wanted(longer().values(), f"{figure}: the fewest weights, longer", 1, seeds)
        yield from wanted(all_of(trials().values()), f"{figure}: a trial on held-out images", 2)
