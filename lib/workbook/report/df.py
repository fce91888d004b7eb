"""DF's tables and figures in numbers: run folders in, rows out, the paper's beside ours.

Gains are accuracy minus the other network's, in points, paired seed by seed: above zero is better.
"""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from torch import nn

from lib import data, structured
from lib.optimizers.df import DF
from lib.workbook import experiments
from lib.workbook.experiments import Experiment
from lib.workbook.report import statistics, tables
from lib.workbook.runs import Run

#: How the tables and figures name the methods.
NAMES = {
    "hybrid": "DF, filters and ranks",
    "filters": "DF, filters alone",
    "ranks": "DF, ranks alone",
    "l1": "ℓ1 norm of filters",
    "group-magnitude": "group magnitude",
    "svd-uniform": "SVD, one share of ranks",
    "svd-energy": "SVD, one share of energy",
    "lc-ranks": "LC, learned ranks",
}

#: The data set of the committed runs.
MIRROR = "cifar10-jpeg"

#: Table 2's settings: what they are called there, and here.
SETTINGS = {
    "batch": "batch size",
    "tuning_epochs": "epochs of fine-tuning",
    "dense_lr": "learning rate of the dense network",
    "tuning_lr": "learning rate of fine-tuning",
    "lambda": "λ",
    "C": "C, in τ = C/σ₁",
    "mu_0": "μ₀",
    "alpha": "α",
    "beta": "β",
}

#: Settings that Table 2 lacks, and what the paper says of them elsewhere.
UNSTATED = {
    "multiplier": ("multiplier beside λ", "no"),
    "statistics": ("BatchNorm while choosing", "not stated"),
    "choosing": ("epochs of choosing, E", "not stated"),
    "rises": ("how often μ rises", "per iteration"),
    "step": ("learning rate of M and γ/σ₁ (Adam)", "not stated"),
    "tolerance": ("ε", "not stated"),
}

Found = Mapping[Hashable, Sequence[Run]]


def finished(rows: Mapping[Hashable, Experiment]) -> dict[Hashable, list[Run]]:
    """The runs that are there, key by key, seed by seed; nothing is trained."""
    found = {key: tables.finished(experiment) for key, experiment in rows.items()}
    return {key: runs for key, runs in found.items() if runs}


def measured(found: Sequence[Run]) -> dict[str, object]:
    """One experiment's runs over seeds as a row: means, and sd over seeds.

    ``reduction`` is 1 − MACs/dense MACs of the network that was built, in percent; accuracies in
    percent; ``gain`` against the dense network and ``control_gain`` against it trained on for as
    long. NaN where a run has no such neighbour.
    """
    results = pd.DataFrame([run.result for run in found])
    columns = ["accuracy", "dense_accuracy", "control_accuracy"]
    accuracy, dense, control = (100 * pd.to_numeric(results[name]) for name in columns)
    known = dense.notna().all()
    return {
        "network": results["network"].iloc[0],
        "reduction": 100 * (1 - results["macs"] / results["dense_macs"]).mean(),
        "accuracy": accuracy.mean(),
        "accuracy_sd": accuracy.std(),
        "dense_accuracy": dense.mean(),
        "control_accuracy": control.mean(),
        "gain": (accuracy - dense).mean(),
        "gain_sd": (accuracy - dense).std(),
        "control_gain": (accuracy - control).mean(),
        "control_gain_sd": (accuracy - control).std(),
        "verdict": tables.interval(found).verdict if known else None,
        "n": len(found),
        "parameters": results["parameters"].mean(),
        "macs": results["macs"].mean(),
        "epochs": results["epochs"].iloc[0],
        "hours": tables.hours(found),
        "computed_in": tables.computed_in(found),
    }


def table(found: Found, keys: Sequence[str]) -> pd.DataFrame:
    """A row for each key of ``found``: the key's parts in columns ``keys``, then :func:`measured`.

    Shares asked for, ``asked``, become percent.
    """
    rows = []
    for key, runs in found.items():
        parts = key if isinstance(key, tuple) else (key,)
        rows.append(dict(zip(keys, parts, strict=True)) | measured(runs))
    made = tables.frame(rows)
    if "asked" in made:
        made["asked"] = (100 * made["asked"]).round(6)
    return made


def curve(found: Found) -> pd.DataFrame:
    """Table 3 and Figures 3a and 4a, ours: keys (method, reduction), as ``structured.curve``'s."""
    made = table(found, ["method", "asked"])
    return made if made.empty else made.assign(method=made["method"].map(NAMES))


def reported(name: str, *, network: str, dataset: str = "cifar10") -> pd.DataFrame:
    """The paper's rows of a network: its printed columns, and ``gain`` as accuracy − baseline.

    The printed delta differs from it in a few rows, which tests/workbook/report/test_reported_df.py
    names.
    """
    made = tables.reported(name)
    made = made[(made["network"] == network) & (made["dataset"] == dataset)]
    gain = (made["accuracy"] - made["baseline_accuracy"]).round(2)
    return made.assign(gain=gain, reduction=made["reduction_percent"]).reset_index(drop=True)


def settings() -> pd.DataFrame:
    """DF's Table 2, and what our rows have: a row a setting, first Table 2's, then ``UNSTATED``.

    The paper's columns are data sets. Ours are schedules (:mod:`lib.workbook.experiments.df`), read
    off the catalogue's experiments, ``same`` where the paper's column of that data set has it too.
    """
    stated = tables.reported("df_table2").set_index("setting")
    paper = {name: tables.shown(stated[name], "{:g}") for name in stated}
    told = {
        name: dict(zip(stated.index, values, strict=True))
        | {key: said for key, (_, said) in UNSTATED.items()}
        for name, values in paper.items()
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
    columns = {data.describe(name): pd.Series(values) for name, values in told.items()}
    for schedule, (of, experiment) in schedules.items():
        used = pd.Series(_used(experiment))
        same = used == pd.Series(told[of])
        columns[f"ours, {schedule}"] = used.mask(same, "same")
    names = SETTINGS | {key: name for key, (name, _) in UNSTATED.items()}
    made = pd.DataFrame(columns).loc[list(names)].rename(index=names)
    return made.rename_axis("setting")


def _used(experiment: Experiment) -> dict[str, str]:
    """What a row of DF has for each of ``SETTINGS`` and ``UNSTATED``, as text."""
    choose, tune = experiment.stages
    defaults = inspect.signature(DF).parameters
    options = {name: given.default for name, given in defaults.items()} | dict(choose.options)
    trained = experiment.parent.stages  # none where the network was published
    per_epoch = options["periods_per_epoch"]
    return {
        "batch": f"{tune.schedule.batch:g}",
        "tuning_epochs": f"{tune.epochs:g}",
        "dense_lr": f"{trained[0].schedule.lr:g}" if trained else "–",
        "tuning_lr": f"{tune.schedule.lr:g}",
        "lambda": f"{options['penalty']:g}",
        "C": f"{options['steepness']:g}",
        "mu_0": f"{options['start']:g}",
        "alpha": f"{options['alpha']:g}",
        "beta": f"{options['beta']:g}",
        "multiplier": "yes" if options["multiplier"] else "no",
        "statistics": {"batch": "each batch", "running": "frozen"}[options["statistics"]],
        "choosing": f"{choose.epochs:g}",
        "rises": f"{per_epoch} per epoch",
        "step": f"{options['step']:g}",
        "tolerance": f"{options['tolerance']:g}",
    }


def lead(found: Found) -> pd.DataFrame:
    """What the hybrid gains on the better of its halves: a row for each reduction, in points.

    Keys are (method, reduction). Over the seeds that all three have; columns ``asked`` (percent),
    ``half`` (which was better), ``points``, ``n``, the number of those seeds, and ``said``, in
    words with an interval over the seeds, or over the images where there is one.
    """
    rows = []
    for asked in sorted({reduction for _, reduction in found}):
        by_seed = [
            {run.result["seed"]: 100 * run.result["accuracy"] for run in found.get((m, asked), ())}
            for m in ("hybrid", "filters", "ranks")
        ]
        seeds = set.intersection(*map(set, by_seed))
        if not seeds:
            continue
        hybrid, *halves = (np.mean([accuracy[s] for s in seeds]) for accuracy in by_seed)
        half = NAMES["filters"] if halves[0] >= halves[1] else NAMES["ranks"]
        points = hybrid - max(halves)
        better = "filters" if halves[0] >= halves[1] else "ranks"
        said = _gain(found["hybrid", asked], found[better, asked]).said
        rows.append(
            {"asked": 100 * asked, "half": half, "points": points, "n": len(seeds), "said": said}
        )
    return pd.DataFrame(rows, columns=["asked", "half", "points", "n", "said"])


def _gain(mine: Sequence[Run], other: Sequence[Run]) -> statistics.Interval:
    """How much more accurate, in points: over the seeds that both have, of one over its images."""
    pairs = [(a, b) for a in mine for b in other if a.result["seed"] == b.result["seed"]]
    if len(pairs) == 1:
        ((one, two),) = pairs
        return statistics.over_images(one.correct.astype(np.int8) - two.correct.astype(np.int8))
    gains = [100 * (one.result["accuracy"] - two.result["accuracy"]) for one, two in pairs]
    return statistics.over_seeds(gains)


def verdict(found: Found) -> str:
    """The hybrid against the better half and against its control: a line a reduction, a mean."""
    leads = lead(found)
    lines = [
        f"{row.asked:g} %: {row.said} on {row.half} (n = {row.n})" for row in leads.itertuples()
    ]
    if len(lines) > 1:
        lines.append(f"mean: {leads['points'].mean():+.2f} points")
    for (method, asked), runs in sorted(found.items(), key=lambda item: item[0][1]):
        if method == "hybrid":
            control, dense = (-tables.interval(runs, against=a) for a in ("control", "dense"))
            lines.append(
                f"{100 * asked:g} %: {control.said} on the dense network trained on, {dense.said} "
                f"on the dense network (n = {len(runs)})"
            )
    return "\n".join(lines)


# ---------------------------------------------------------------------------------- what was built


def whole_macs(dense: nn.Module, built: nn.Module, *, input_shape: tuple[int, ...]) -> int:
    """MACs of one image in ``built`` with each of its layers whole: filters gone, none in factors.

    ``built`` is ``dense`` with filters removed and layers in factors (``lib.structured``).
    """
    before, after = (structured.layers(m, input_shape=input_shape) for m in (dense, built))
    spent = 0
    for name, layer in before.items():
        first, last = (after.get(f"{name}.{i}", after.get(name)) for i in range(2))
        spent += replace(layer, inputs=first.inputs, filters=last.filters).macs()
    return spent


def parts(run: Run) -> dict[str, float]:
    """Figure 4b: the share of the dense network's MACs (%) that left with filters, and with ranks.

    Filters first: MACs dense − MACs of the pruned network with its layers whole; ranks have the
    rest, down to the MACs built. The other order would give ranks more.
    """
    shape = experiments.df.input_shape(run.result["dataset"], run.result["network"])
    whole = whole_macs(run.dense_model(), run.model(), input_shape=shape)
    dense, built = run.result["dense_macs"], run.result["macs"]
    return {"filters": 100 * (dense - whole) / dense, "ranks": 100 * (whole - built) / dense}


def latencies(
    models: Mapping[str, nn.Module],
    *,
    input_shape: tuple[int, ...],
    batches: Sequence[int] = (1, 128),
    seconds: float = 1.0,
) -> pd.DataFrame:
    """Milliseconds of a forward pass, a row a network: on this machine, now, with its threads."""
    rows = {
        name: {
            f"batch {batch}": 1000 * structured.latency(model, input_shape, batch, seconds=seconds)
            for batch in batches
        }
        for name, model in models.items()
    }
    return pd.DataFrame(rows).T


def landing(run: Run) -> dict[str, float]:
    """How DF met its budget, in percent of the dense network's MACs: asked, counted softly, built.

    ``counted`` is B after the last epoch in which filters and ranks were chosen, ``missed`` is
    B − B_d. ``pull`` is what λ·(B − B_d)² says |∂L/∂B| was there, 2λ·|B − B_d|, in nats.
    """
    options = dict(run.experiment["stages"][0]["options"])
    counted = run.history["macs_share"].dropna().iloc[-1]
    asked = options["budget"] / run.result["dense_macs"]
    return {
        "B_d": 100 * asked,
        "B": 100 * counted,
        "missed": 100 * (counted - asked),
        "built": 100 * run.result["macs"] / run.result["dense_macs"],
        "pull": 2 * options["penalty"] * abs(counted - asked),
    }


def landings(found: Found, keys: Sequence[str]) -> pd.DataFrame:
    """:func:`landing` and the accuracy (%), a row for each key, of seed 0."""
    rows = []
    for key, runs in found.items():
        named = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        known = {"accuracy": 100 * runs[0].result["accuracy"], "computed_in": runs[0].computed_in}
        rows.append(named | landing(runs[0]) | known)
    return tables.frame(rows)


#: What ``structured.gain`` and ``structured.twice`` compare, in words.
WHAT = {
    "dense": "dense",
    "control": "dense, trained on",
    "hybrid": "DF",
    "from-scratch": "DF's network from new weights",
    "both": "DF, then ADMM",
}

#: Those of ``structured.gain`` that have a start, the weak one first; what each run knows of it.
STARTS = ("weak", "hybrid")
STEPS = ("dense_accuracy", "control_accuracy", "accuracy")


def origins(found: Found) -> pd.DataFrame:
    """Where the gain comes from: of each start dense, trained on, and DF; then from new weights.

    ``found`` has keys of ``structured.gain``; what is missing is left out. ``start`` is the
    learning rate of the dense network that a row goes back to. ``gain`` is against that network
    (from new weights: against ours) and ``df_gain`` against DF from our start, paired seed by seed;
    ``epochs`` are all there were, from the first.
    """
    df = _percent(found.get("hybrid", ()))
    rows = []

    def add(name: str, result: dict, accuracy: pd.Series, dense: pd.Series, **known) -> None:
        macs = result["macs"] if name in ("hybrid", "from-scratch") else result["dense_macs"]
        rows.append(
            {
                "what": WHAT[name],
                "accuracy": accuracy.mean(),
                "accuracy_sd": accuracy.std(),
                "gain": (accuracy - dense).mean(),
                "df_gain": (accuracy - df).mean(),
                "n": int((accuracy - dense).count()),
                "reduction": 100 * (1 - macs / result["dense_macs"]),
                **known,
            }
        )

    for runs in (found[key] for key in STARTS if key in found):
        result, parent = runs[0].result, runs[0].experiment["parent"]
        first, start = _epochs(parent), _rate(parent)
        last = first + result["epochs"]
        dense, control, built = (_percent(runs, step) for step in STEPS)
        add("dense", result, dense, dense, start=start, epochs=first)
        add("control", result, control, dense, start=start, epochs=last)
        said = tables.computed_in(runs)
        add("hybrid", result, built, dense, start=start, epochs=last, computed_in=said)
    if "from-scratch" in found:
        again = found["from-scratch"]
        dense = _percent(found.get("hybrid", ()), "dense_accuracy")
        result = again[0].result
        known = {"epochs": result["epochs"], "computed_in": tables.computed_in(again)}
        add("from-scratch", result, _percent(again), dense, **known)
    return tables.frame(rows)


def differences(found: Found) -> pd.DataFrame:
    """The paper's Δ = DF − dense as two differences, in points, a row for each start.

    ``by_epochs`` is control − dense, ``by_compression`` DF − control, both paired seed by seed;
    they add up to ``gain``. ``found`` is as for :func:`origins`.
    """
    rows = []
    for runs in (found[key] for key in STARTS if key in found):
        dense, control, built = (_percent(runs, name) for name in STEPS)
        rows.append(
            {
                "start": _rate(runs[0].experiment["parent"]),
                "dense_accuracy": dense.mean(),
                "gain": (built - dense).mean(),
                "by_epochs": (control - dense).mean(),
                "by_compression": (built - control).mean(),
                "accuracy": built.mean(),
                "n": len(runs),
            }
        )
    return pd.DataFrame(rows)


def origin_verdict(found: Found) -> str:
    """:func:`differences` in words, a line a start; then the weak start minus ours, if both are."""
    made = differences(found)
    lines = [
        f"start at {row.start:g}: Δ {row.gain:+.2f} points = epochs {row.by_epochs:+.2f}, "
        f"compression {row.by_compression:+.2f} (n = {row.n})"
        for row in made.itertuples()
    ]
    if len(made) == 2:
        less = made.iloc[0] - made.iloc[1]
        lines.append(
            f"weak start minus ours: dense {less['dense_accuracy']:+.2f} points, "
            f"Δ {less['gain']:+.2f} (epochs {less['by_epochs']:+.2f}, "
            f"compression {less['by_compression']:+.2f}), DF {less['accuracy']:+.2f}"
        )
    return "\n".join(lines)


def _percent(runs: Sequence[Run], name: str = "accuracy") -> pd.Series:
    return pd.Series([100 * run.result[name] for run in runs], dtype=float)


def _rate(experiment: dict) -> float:
    return experiment["stages"][0]["schedule"]["lr"]


def _epochs(experiment: dict) -> int:
    return sum(stage["schedule"]["epochs"] for stage in experiment["stages"])


def tried(found: Found) -> pd.DataFrame:
    """The grid of β and C: accuracy (%) on held-out images, a row a β, a column a C; seed 0."""
    accuracies = {key: 100 * runs[0].result["held_out_accuracy"] for key, runs in found.items()}
    grid = pd.Series(accuracies, dtype=float)
    grid.index = pd.MultiIndex.from_tuples(accuracies, names=["β", "C"])
    return grid.unstack()


def both(found: Found) -> pd.DataFrame:
    """Both kinds of compression, a row a network: MACs and bytes, all relative to the dense one.

    ``rate`` is 32 bits × the dense network's weights over the bits of the weights left: ADMM's own
    nominal rate, which is relative to what DF left, would understate it. Seed 0.
    """
    rows = []
    for key, (run, *_) in found.items():
        dense = experiments.df.dense_weights(run.result["dataset"], run.result["network"])
        rows.append(
            {
                "what": WHAT[key],
                "accuracy": 100 * run.result["accuracy"],
                "control_gain": 100 * (run.result["accuracy"] - run.result["control_accuracy"]),
                "reduction": 100 * (1 - run.result["macs"] / run.result["dense_macs"]),
                "rate": 32 * dense / run.result["nominal_bits"],
                "own_rate": run.result["nominal_rate"],
                "file_bytes": run.result["file_bytes"],
                "epochs": run.result["epochs"],
                "computed_in": run.computed_in,
            }
        )
    return tables.frame(rows)


# ------------------------------------------------------------------------------------ as it is read

#: Column → its heading and how its values are written.
SHOWN = {
    "method": ("method", "{}"),
    "what": ("network", "{}"),
    "start": ("start's learning rate", "{:g}"),
    "sigmoid": ("sigmoid", "{}"),
    "scheme": ("scheme", "{}"),
    "asked": ("asked, %", "{:g}"),
    "reported": ("reported, %", "{:.2f}"),
    "reported_gain": ("reported Δ", "{:+.2f}"),
    "reduction": ("MACs less, %", "{:.1f}"),
    "accuracy": ("accuracy, %", "{:.2f}"),
    "gain": ("against dense", "{:+.2f}"),
    "df_gain": ("against DF", "{:+.2f}"),
    "control_gain": ("against control", "{:+.2f}"),
    "control_gain_sd": ("sd", "{:.2f}"),
    "verdict": ("verdict", "{}"),
    "n": ("n", "{:.0f}"),
    "dense_accuracy": ("dense, %", "{:.2f}"),
    "control_accuracy": ("control, %", "{:.2f}"),
    "parameters": ("parameters", "{:,.0f}"),
    "rate": ("rate", "{:,.1f}×"),
    "own_rate": ("rate of what DF left", "{:,.1f}×"),
    "file_bytes": ("file, bytes", "{:,.0f}"),
    "B_d": ("B_d, %", "{:.1f}"),
    "B": ("B at the end, %", "{:.1f}"),
    "missed": ("B − B_d", "{:+.1f}"),
    "built": ("built, %", "{:.1f}"),
    "pull": ("2λ|B − B_d|, nats", "{:.3f}"),
    "epochs": ("epochs", "{:.0f}"),
    "hours": ("hours", "{:.2f}"),
    "computed_in": ("computed in", "{}"),
}


def printed(made: pd.DataFrame, *, waiting: Sequence[str] = ()) -> pd.DataFrame:
    """A table of this module as it is read: rounded, with units, a dash where nothing is stated.

    Columns without any value are left out, but for those in ``waiting``.
    """
    columns = {}
    for name, (heading, form) in SHOWN.items():
        if name in waiting or (name in made and made[name].notna().any()):
            columns[heading] = ["–" if pd.isna(v) else form.format(v) for v in made[name]]
    return pd.DataFrame(columns)


# ------------------------------------------------------------- committed rows, shown in notebooks


def committed(
    name: str,
    rows: Callable[..., Mapping[Hashable, Experiment]],
    shown: Callable[[Found], str],
    *,
    lengths: Sequence[str] = ("full", "cpu", "short"),
) -> str:
    """Committed runs on CIFAR-10, then those on the JPEG mirror that it does not have yet, as text.

    ``rows`` are experiments by key; what is missing on CIFAR-10 is listed, where some are there.
    One line where nothing is.
    """
    parts = []
    for place in places(rows, lengths=lengths):
        parts.append(f"{place.network} on {data.describe(place.dataset)}, {place.length} schedule")
        parts.append(shown(place.found))
        parts += [f"not there yet: {'; '.join(map(_said, place.missing))}"] if place.missing else []
    return "\n".join(parts) or tables.none(name, "cifar10")


@dataclass(frozen=True)
class Place:
    """Committed runs of one data set and schedule, and keys of those that are not there yet."""

    dataset: str
    length: str
    network: str
    found: dict[Hashable, list[Run]]
    missing: tuple[Hashable, ...]


def places(
    rows: Callable[..., Mapping[Hashable, Experiment]],
    *,
    lengths: Sequence[str] = ("full", "cpu", "short"),
) -> list[Place]:
    """Where there are committed runs of ``rows``, an experiment by key: CIFAR-10 before the mirror.

    The mirror's pixels stand in for CIFAR-10's: a key that is there on CIFAR-10 is left out of the
    mirror's, and none of the mirror's is missed.
    """
    made, exact = [], set()
    for dataset, its in (("cifar10", ("full", "cpu")), (MIRROR, ("full", "short"))):
        for length in (length for length in its if length in lengths):
            wanted = rows(dataset, **experiments.df.chosen(length, dataset=dataset, device="cpu"))
            found = {k: runs for k, runs in finished(wanted).items() if k not in exact}
            if found:
                missing = tuple(key for key in wanted if key not in found and dataset != MIRROR)
                network = next(iter(wanted.values())).network
                made.append(Place(dataset, length, network, found, missing))
        if dataset != MIRROR:
            exact = {key for place in made for key in place.found}
    return made


def _said(key: Hashable) -> str:
    return " ".join(map(str, key)) if isinstance(key, tuple) else str(key)


def text(made: pd.DataFrame) -> str:
    """:func:`printed` as text."""
    return printed(made).to_string(index=False)


def committed_curve() -> str:
    """Table 3 and Figure 3a from the committed runs, as text."""

    def shown(found: Found) -> str:
        made = curve(found).sort_values("asked", kind="stable")
        return f"{text(made)}\n{verdict(found)}"

    return committed("DF's Table 3", experiments.df.curve, shown)


def committed_parts() -> str:
    """Figure 4b from the committed runs, as text."""

    def rows(dataset: str, **length) -> dict[float, Experiment]:
        wanted = experiments.df.curve(dataset, **length)
        return {asked: e for (method, asked), e in wanted.items() if method == "hybrid"}

    def shown(found: Found) -> str:
        made = pd.DataFrame([{"asked": 100 * k} | parts(runs[0]) for k, runs in found.items()])
        return made.round(1).to_string(index=False)

    return committed("DF's Figure 4b", rows, shown)


def committed_schedule() -> str:
    """Table 1 from the committed runs, as text."""
    return committed(
        "DF's Table 1", experiments.df.schedule_rows, lambda found: text(schedule(found))
    )


def schedule(found: Found) -> pd.DataFrame:
    """Table 1, ours: keys (with the schedule, reduction), as ``structured.schedule_rows``'s."""
    made = table(found, ["sigmoid", "asked"])
    if not made.empty:
        made["sigmoid"] = made["sigmoid"].map({True: "scheduled", False: "plain"})
    return made


def committed_printed() -> str:
    """DF nearer to the paper's letter, from the committed runs, as text."""
    name = "DF nearer to the letter"
    return committed(name, experiments.df.as_printed, lambda f: text(landings(f, ["asked"])))


def committed_binary() -> str:
    """DF with binary masks, from the committed runs, as text."""
    name = "DF with binary masks"
    return committed(name, experiments.df.binary, lambda f: text(table(f, ["asked"])))


def fell(found: Mapping[str, Run]) -> pd.DataFrame:
    """Test accuracy (%) of what DF learned, and of what was built, a column for each of ``found``.

    Of the masked and thresholded network after its last epoch; of the network built after the first
    epoch of training it, and at the end.
    """
    columns = {}
    for name, run in found.items():
        accuracy = run.history["test_accuracy"]
        columns[name] = {
            "masked and thresholded, last epoch": accuracy[run.history["mu"].notna()].iloc[-1],
            "built, after an epoch": accuracy[run.history["stage"] == 1].iloc[0],
            "built, last epoch": run.result["accuracy"],
        }
    return (100 * pd.DataFrame(columns)).round(1)


def committed_schemes() -> str:
    """Figure 5 from the committed runs, as text."""

    def shown(found: Found) -> str:
        return text(table(found, ["scheme", "asked"]).sort_values("asked", kind="stable"))

    return committed("DF's Figure 5", experiments.df.schemes, shown)


def committed_gain() -> str:
    """Where DF's gain comes from, from the committed runs, as text."""

    def shown(found: Found) -> str:
        return f"{text(origins(found))}\n{origin_verdict(found)}".strip()

    return committed("where DF's gain comes from", experiments.df.gain, shown)


def committed_both() -> str:
    """Both kinds of compression at once, from the committed runs, as text."""
    name = "both kinds of compression"
    return committed(name, experiments.df.twice, lambda found: text(both(found)))


def committed_table_5() -> str:
    """Table 5's VGG-16, from the committed runs, as text."""

    def shown(found: Found) -> str:
        return text(table(found, ["asked"]))

    return committed("DF's Table 5", experiments.df.table_5, shown, lengths=("full",))


#: What the runs measure in :func:`table_5`.
MEASURED = ("reduction", "accuracy", "gain", "control_gain", "n")


def table_5() -> pd.DataFrame:
    """Table 5's rows of DF as reported, and ours of the same pixels beside them.

    The mirror's pixels are others, its rows are in :func:`committed_table_5`. ``MEASURED`` is NaN
    where no run is there yet.
    """
    made = [
        beside(
            reported("df_table5", network=experiments.df.TABLE_5[dataset][0], dataset=dataset),
            experiments.df.table_5(dataset),
        )
        for dataset in ("cifar10", "cifar100")
    ]
    return pd.concat(made, ignore_index=True)


def beside(paper: pd.DataFrame, rows: Mapping[float, Experiment]) -> pd.DataFrame:
    """DF's rows of a paper's table, and of ours that are there: ``rows`` maps reductions to them.

    ``MEASURED`` is NaN where no run is there yet.
    """
    own = paper[paper["algorithm"] == "DF"].set_index("reduction")
    made = []
    for asked, experiment in rows.items():
        percent = round(100 * asked)
        found = tables.finished(experiment)
        made.append(
            {
                "what": f"{experiment.network}, {data.describe(experiment.dataset)}",
                "asked": percent,
                "reported": own["accuracy"][percent],
                "reported_gain": own["gain"][percent],
                **(measured(found) if found else {}),
            }
        )
    stated = ["what", "asked", "reported", "reported_gain"]
    ours = tables.frame(made)
    differ = ours.columns.intersection(["computed_in"])
    return ours.reindex(columns=[*stated, *MEASURED, *differ])


def committed_table_5_beside() -> str:
    """:func:`table_5` as text; a dash where a run of ours is missing."""
    return printed(table_5(), waiting=MEASURED).to_string(index=False)
