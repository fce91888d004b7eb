"""DF's tables and figures in numbers: run folders in, rows out, the paper's beside ours.

Gains are accuracy minus the other network's, in points, paired seed by seed: above zero is better.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd
from torch import nn

from lib import data, structured
from lib.workbook import experiments
from lib.workbook.experiments import Experiment
from lib.workbook.report import rows
from lib.workbook.report.columns import columns, text
from lib.workbook.report.places import places
from lib.workbook.report.rows import (
    Runs,
    by_seed,
    finished,
    frame,
    gain,
    interval,
    length,
    summary,
    taken,
)
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

#: A part of a key → how its values are called.
CALLED = {"method": NAMES, "sigmoid": {True: "scheduled", False: "plain"}}

Found = Mapping[Hashable, Runs]

#: What a row of DF says of an experiment's runs. ``reduction`` is of the network that was built.
COLUMNS = (
    "network reduction accuracy accuracy_sd dense_accuracy control_accuracy gain gain_sd "
    "control_gain control_gain_sd verdict n parameters macs epochs hours"
)


def table(found: Found, keys: Sequence[str]) -> pd.DataFrame:
    """A row for each key of ``found``: the key's parts in columns ``keys``, then ``COLUMNS``.

    Shares asked for, ``asked``, become percent, what is in ``CALLED`` its names.
    """
    made = rows.table(found, keys, COLUMNS)
    if "asked" in made:
        made["asked"] = (100 * made["asked"]).round(6)
    for key in made.columns.intersection(CALLED):
        made[key] = made[key].map(CALLED[key])
    return made


def curve(found: Found) -> pd.DataFrame:
    """Table 3 and Figures 3a and 4a, ours: keys (method, reduction), as the catalogue's."""
    return table(found, ["method", "asked"])


def schedule(found: Found) -> pd.DataFrame:
    """Table 1, ours: keys (with the schedule, reduction), as the catalogue's."""
    return table(found, ["sigmoid", "asked"])


def reported(name: str, *, network: str, dataset: str = "cifar10") -> pd.DataFrame:
    """The paper's rows of a network: its printed columns, and ``gain`` as accuracy − baseline.

    The printed delta differs from it in a few rows, which tests/workbook/report/test_reported_df.py
    names.
    """
    made = rows.reported(name).query("network == @network and dataset == @dataset")
    gain = (made["accuracy"] - made["baseline_accuracy"]).round(2)
    return made.assign(gain=gain, reduction=made["reduction_percent"]).reset_index(drop=True)


def lead(found: Found) -> pd.DataFrame:
    """What the hybrid gains on the better of its halves: a row for each reduction, in points.

    Keys are (method, reduction). Over the seeds that all three have; columns ``asked`` (percent),
    ``half`` (which was better), ``points``, ``n``, the number of those seeds, and ``said``, in
    words with an interval over the seeds, or over the images where there is one.
    """
    made = []
    for asked in sorted({reduction for _, reduction in found}):
        three = {m: found.get((m, asked), ()) for m in ("hybrid", "filters", "ranks")}
        accuracies = pd.DataFrame({m: by_seed(runs) for m, runs in three.items()}).dropna()
        if accuracies.empty:
            continue
        mean = accuracies.mean()
        better = mean[["filters", "ranks"]].idxmax()
        said = gain(three["hybrid"], three[better]).said
        points = mean["hybrid"] - mean[better]
        made.append((100 * asked, NAMES[better], points, len(accuracies), said))
    return pd.DataFrame(made, columns=["asked", "half", "points", "n", "said"])


def verdict(found: Found) -> str:
    """The hybrid against the better half and against its control: a line a reduction, a mean."""
    leads = lead(found)
    lines = [
        f"{row.asked:g} %: {row.said} on {row.half} (n = {row.n})" for row in leads.itertuples()
    ]
    if len(lines) > 1:
        lines.append(f"mean: {leads['points'].mean():+.2f} points")
    for asked in sorted(asked for method, asked in found if method == "hybrid"):
        runs = found["hybrid", asked]
        control, dense = (-interval(runs, against=a) for a in ("control", "dense"))
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
    return sum(
        replace(layer, inputs=parts[0].inputs, filters=parts[-1].filters).macs()
        for layer, parts in became(dense, built, input_shape=input_shape)
    )


def became(
    dense: nn.Module, built: nn.Module, *, input_shape: tuple[int, ...]
) -> Iterator[tuple[structured.Layer, list[structured.Layer]]]:
    """Each layer of ``dense``, and what it is in ``built``: one layer, or its two factors."""
    before, after = (structured.layers(m, input_shape=input_shape) for m in (dense, built))
    for name, layer in before.items():
        yield layer, [after[k] for k in (name, f"{name}.0", f"{name}.1") if k in after]


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


def landings(found: Found, keys: Sequence[str] = ("asked",)) -> pd.DataFrame:
    """:func:`landing` and the accuracy (%), a row for each key, of seed 0."""
    first = {key: runs[:1] for key, runs in found.items()}
    met = pd.DataFrame([landing(run) for (run,) in first.values()])
    known = rows.table(first, keys, "accuracy")
    return pd.concat([known[list(keys)], met, known.drop(columns=list(keys))], axis=1)


def built_accuracies(found: Mapping[str, Run]) -> pd.DataFrame:
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


#: What the catalogue's ``gain`` and ``twice`` compare, in words.
WHAT = {
    "dense": "dense",
    "control": "dense, trained on",
    "hybrid": "DF",
    "from-scratch": "DF's network from new weights",
    "both": "DF, then ADMM",
}

#: Those of ``gain`` that have a start, the weak one first; what each run knows of it, by its name.
STARTS = ("weak", "hybrid")
STEPS = {"dense": "dense_accuracy", "control": "control_accuracy", "hybrid": "accuracy"}


def gain_sources(found: Found) -> pd.DataFrame:
    """Where the gain comes from: of each start dense, its control, and DF; then from new weights.

    ``found`` has the keys of ``gain``; what is missing is left out. ``start`` is the learning rate
    of the dense network that a row goes back to. ``gain`` is against that network (from new
    weights: against ours) and ``df_gain`` against DF from our start, paired seed by seed;
    ``epochs`` are all there were, from the first.
    """
    ours = {name: by_seed(found.get("hybrid", ()), name) for name in STEPS.values()}
    wanted = [(key, name) for key in STARTS for name in STEPS] + [("from-scratch", "from-scratch")]
    made = []
    for key, name in ((key, name) for key, name in wanted if key in found):
        runs, start, epochs = found[key], None, found[key][0].result["epochs"]
        accuracy, dense = by_seed(runs, STEPS.get(name, "accuracy")), ours["dense_accuracy"]
        if key in STARTS:
            dense, first = by_seed(runs, "dense_accuracy"), length(runs[0].experiment["parent"])
            start, epochs = _start(runs), first if name == "dense" else first + epochs
        gained, built = accuracy - dense, name in ("hybrid", "from-scratch")
        row = {
            "what": WHAT[name],
            "accuracy": accuracy.mean(),
            "accuracy_sd": accuracy.std(),
            "gain": gained.mean(),
            "df_gain": (accuracy - ours["accuracy"]).mean(),
            "n": int(gained.count()),
            "reduction": by_seed(runs, "reduction").iloc[0] if built else 0.0,
            "start": start,
            "epochs": epochs,
        }
        made.append(row | (summary(runs, "computed_in") if built else {}))
    return frame(made)


def _start(runs: Runs) -> float:
    return runs[0].experiment["parent"]["stages"][0]["schedule"]["lr"]


def differences(found: Found) -> pd.DataFrame:
    """The paper's Δ = DF − dense as two differences, in points, a row for each start.

    ``by_epochs`` is control − dense, ``by_compression`` DF − control, both paired seed by seed;
    they add up to ``gain``. ``found`` is as for :func:`gain_sources`.
    """
    made = []
    for runs in (found[key] for key in STARTS if key in found):
        dense, control, built = (by_seed(runs, step) for step in STEPS.values())
        row = {
            "start": _start(runs),
            "dense_accuracy": dense.mean(),
            "gain": (built - dense).mean(),
            "by_epochs": (control - dense).mean(),
            "by_compression": (built - control).mean(),
            "accuracy": built.mean(),
            "n": len(runs),
        }
        made.append(row)
    return pd.DataFrame(made)


def gain_verdict(found: Found) -> str:
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
    made = []
    for key, (run, *_) in found.items():
        dense = experiments.df.dense_weights(run.result["dataset"], run.result["network"])
        known = {"what": WHAT[key], "rate": 32 * dense / run.result["nominal_bits"]}
        columns = "accuracy control_gain reduction nominal_rate file_bytes epochs computed_in"
        made.append(known | summary([run], columns))
    return frame(made).rename(columns={"nominal_rate": "own_rate"})


#: What the runs measure in :func:`table_5`.
MEASURED = "reduction accuracy gain control_gain n"


def table_5() -> pd.DataFrame:
    """Table 5's rows of DF as reported, and ours of the same pixels beside them.

    The mirror's pixels are others, its rows have a table of their own. ``MEASURED`` is NaN
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


def beside(paper: pd.DataFrame, wanted: Mapping[float, Experiment]) -> pd.DataFrame:
    """DF's rows of a paper's table, and of ours that are there: ``wanted`` maps reductions to them.

    ``MEASURED`` is NaN where no run is there yet.
    """
    own = paper[paper["algorithm"] == "DF"].set_index("reduction")
    made = []
    for asked, experiment in wanted.items():
        percent = round(100 * asked)
        stated = {
            "what": f"{experiment.network}, {data.describe(experiment.dataset)}",
            "asked": percent,
            "reported": own["accuracy"][percent],
            "reported_gain": own["gain"][percent],
        }
        found = finished(experiment)
        made.append(stated | (summary(found, f"{MEASURED} computed_in") if found else {}))
    return taken(frame(made), [*stated, *MEASURED.split()])


#: Every table of this module as it is read: those of these columns that it has.
SHOWN = columns(
    "method what start sigmoid scheme asked reported reported_gain reduction accuracy gain df_gain "
    "control_gain control_gain_sd verdict n dense_accuracy control_accuracy parameters rate "
    "own_rate file_bytes B_d B missed built pull epochs hours",
    start=("start's learning rate", "{:g}"),
    reported=("reported, %", "{:.2f}"),
    reported_gain=("reported Δ", "{:+.2f}"),
    df_gain=("against DF", "{:+.2f}"),
    control_gain_sd=("sd", "{:.2f}"),
    rate=("rate", "{:,.1f}×"),
    own_rate=("rate of what DF left", "{:,.1f}×"),
    B_d=("B_d, %", "{:.1f}"),
    B=("B at the end, %", "{:.1f}"),
    missed=("B − B_d", "{:+.1f}"),
    built=("built, %", "{:.1f}"),
    pull=("2λ|B − B_d|, nats", "{:.3f}"),
)


def by_place(
    wanted: Callable[..., Mapping[Hashable, Experiment]],
    said: Callable[[Found], pd.DataFrame | str],
    *,
    lengths: Sequence[str] = ("full", "cpu", "short"),
) -> str:
    """Committed runs on CIFAR-10, then those on the JPEG mirror that it does not have yet, as text.

    ``wanted`` are experiments by key, ``said`` makes text or a table of their runs; what is missing
    on CIFAR-10 is listed, where some are there. Empty where nothing is.
    """
    parts = []
    for place in places(wanted, lengths=lengths):
        parts.append(f"{place.network} on {data.describe(place.dataset)}, {place.length} schedule")
        made = said(place.found)
        parts.append(made if isinstance(made, str) else text(made, SHOWN))
        if place.missing:
            names = (
                " ".join(map(str, k)) if isinstance(k, tuple) else str(k) for k in place.missing
            )
            parts.append(f"not there yet: {'; '.join(names)}")
    return "\n".join(parts)


def curve_text(found: Found) -> str:
    """Table 3 and the hybrid's lead."""
    made = curve(found).sort_values("asked", kind="stable")
    return f"{text(made, SHOWN)}\n{verdict(found)}"


def parts_text(found: Found) -> str:
    """Figure 4b."""
    made = [{"asked": 100 * asked} | parts(runs[0]) for asked, runs in found.items()]
    return pd.DataFrame(made).round(1).to_string(index=False)


def hybrids(dataset: str, **length) -> dict[float, Experiment]:
    """The hybrid's rows of Table 3, by reduction."""
    wanted = experiments.df.curve(dataset, **length)
    return {asked: e for (method, asked), e in wanted.items() if method == "hybrid"}


def gain_text(found: Found) -> str:
    """Where DF's gain comes from, and how much of it."""
    return f"{text(gain_sources(found), SHOWN)}\n{gain_verdict(found)}".strip()


def beside_text(table: pd.DataFrame) -> str:
    """:func:`beside` as it is read, a dash where a run of ours is missing."""
    return text(table, SHOWN, waiting=MEASURED)
