"""LC's figure of results: error and loss against the weights kept, for each cost."""

from lib.workbook.experiments.recipes import PULL, admm_schedule, dense
from lib.workbook.experiments.spec import Entry, Experiment, Stage

DATASETS = ("mnist", "digits")

NETWORK = "lenet300-tanh"

EPOCHS = {"mnist": 60, "digits": 40}

#: Shares of the weights that stay, of the ℓ0 constraint and of magnitude pruning.
KEPT = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005)
KEPT_DIGITS = (0.2, 0.05, 0.02)

#: The other costs' amounts: of the norm left, or α. What they keep is then read off.
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

#: Settings that a slug does not say. Runs are found by their slugs: these stay as they are, also
#: when others turn out the best.
UNSAID = {"lc": {"mu": 1e-3, "rise": 300}, "gradual": 0.25}


def lc(
    dataset: str,
    cost: str,
    amount: float,
    *,
    scope: str = "global",
    mu: float | None = None,
    rise: float | None = None,
    augmented: bool = True,
    epochs: int | None = None,
    trace: bool = False,
    held_out: bool = False,
) -> Experiment:
    """LC under one cost; μ starts at ``PULL``·``mu`` and is ``rise`` times that in the end.

    Of ``None`` both are as tuned.
    """
    fewest = cost == "l0-constraint" and amount <= TRIAL_KEPT["lc-fewest"]
    tuned = TUNED["lc-fewest" if fewest else "lc"]
    mu, rise = mu or tuned["mu"], rise or tuned["rise"]
    options = {
        "cost": cost,
        "amount": amount,
        "mu": PULL[dataset] * mu,
        "growth": round(rise ** (1 / (epochs or EPOCHS[dataset])), 4),
        # what equals its default is left out
        **({} if scope == "global" else {"scope": scope}),
        **({} if augmented else {"augmented": augmented}),
    }
    name = f"lc-{cost}-{amount:g}{'' if scope == 'global' else f'-per-{scope}'}"
    unusual = {"mu": mu, "rise": rise} != UNSAID["lc"]
    name += f"-mu{mu:g}-rise{rise:g}" if unusual else ""
    name += "" if augmented else "-penalty-method"
    return _experiment(
        dataset, name, "lc", options, cost, epochs=epochs, trace=trace, held_out=held_out
    )


def pruned(
    dataset: str,
    keep: float,
    *,
    scope: str = "global",
    until: float = 0.0,
    epochs: int | None = None,
    held_out: bool = False,
) -> Experiment:
    """Magnitude pruning, retrained; gradually, until that part of the run is over, or at once."""
    kind = "gradual" if until else "magnitude"
    options = {
        "keep": keep,
        **({} if scope == "global" else {"scope": scope}),
        **({"epochs": int(until * (epochs or EPOCHS[dataset]))} if until else {}),
    }
    name = f"{kind}-{keep:g}{'' if scope == 'global' else f'-per-{scope}'}"
    name += f"-until{until:g}" if until not in (0, UNSAID["gradual"]) else ""
    return _experiment(dataset, name, "magnitude", options, kind, epochs=epochs, held_out=held_out)


def _experiment(
    dataset: str,
    name: str,
    method: str,
    options: dict,
    mode: str,
    *,
    epochs: int | None = None,
    trace: bool = False,
    held_out: bool = False,
) -> Experiment:
    schedule = admm_schedule(dataset, NETWORK, epochs or EPOCHS[dataset])
    parts = [NETWORK, dataset, name, f"{schedule.epochs}ep"]
    parts += ["traced"] * trace + ["held-out"] * held_out
    return Experiment(
        slug="-".join(parts),
        dataset=dataset,
        network=NETWORK,
        stages=(Stage(method=method, schedule=schedule, options=tuple(sorted(options.items()))),),
        parent=dense(dataset, network=NETWORK, held_out=held_out),
        mode=mode,
        trace=trace,
        held_out=held_out,
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


def entries(dataset: str) -> list[Entry]:
    """What the catalogue holds of LC's figure on a data set."""
    seeds = 3 if dataset == "mnist" else 1
    drawn = [run for runs in curves(dataset).values() for run in runs]
    layered = [run for runs in per_layer(dataset).values() for run in runs]
    found = [
        (drawn[0].parent, seeds, "the start of LC's figure", 1),
        (drawn[0].control, seeds, "control of LC's figure", 1),
        *((run, seeds, "LC's figure of results", 1) for run in drawn),
        *((run, seeds, "LC's figure: each layer the same share", 2) for run in layered),
        *((run, 1, "LC: w and θ meet", 2) for run in meetings(dataset).values()),
    ]
    if dataset == "mnist":
        again = longer()
        found.append((again["magnitude"].control, seeds, "control of LC's figure", 1))
        found += [
            (run, seeds, "LC's figure: the fewest weights, longer", 1) for run in again.values()
        ]
        tried = [run for runs in trials().values() for run in runs]
        found.append((tried[0].parent, 1, "LC's figure: the start of trials", 2))
        found += [(run, 1, "LC's figure: a trial on held-out images", 2) for run in tried]
    return [
        Entry(experiment=e, seeds=count, purpose=purpose, priority=priority)
        for e, count, purpose, priority in found
    ]
