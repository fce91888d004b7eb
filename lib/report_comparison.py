"""LC's figure of results, and all methods head to head: run folders → tables."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from lib import report, statistics
from lib.data.catalogue import HELD_OUT
from lib.experiments import Experiment, comparison, curve
from lib.networks import compressible
from lib.runs import Run, read

#: Accuracies in percent by seed.
BySeed = dict[int, float]

#: How the tables and figures name the methods.
NAMES = {
    "admm": "ADMM, rising ρ (ours)",
    "admm-constant": "ADMM, constant ρ",
    "lc": "LC-ℓ0",
    "lc-fewest": "LC-ℓ0, 0.5 % kept",
    "deep-compression": "Deep Compression",
    "gradual": "gradual pruning",
    "ye": "ADMM, rates by hand (Ye et al.)",
    "fixed-bitwidth": "Fixed-Bitwidth",
    "black-box": "black-box search (TPE)",
}


def results_curve(curves: Mapping[str, Sequence[Sequence[Run]]]) -> pd.DataFrame:
    """LC's figure in numbers: a row for each point of each curve, means and sd over seeds.

    ``curves`` maps a curve's name to its points, each the runs over seeds. ``kept_percent`` is what
    is left of the weights, ``error`` (%) and ``loss`` (nats) of the test split, ``train_loss`` of
    the training split.
    """
    rows = []
    for name, points in curves.items():
        for found in filter(None, points):
            results = pd.DataFrame([run.result for run in found])
            error = 100 * (1 - results["accuracy"])
            rows.append(
                {
                    "curve": name,
                    "amount": _amount(found[0]),
                    "kept_percent": 100 * results["kept_fraction"].mean(),
                    "error": error.mean(),
                    "error_sd": error.std(),
                    "control_error": 100 * (1 - results["control_accuracy"].mean()),
                    "loss": results["test_loss"].mean(),
                    "train_loss": results["train_loss"].mean(),
                    "hours": report.hours(found),
                    "n": len(found),
                    "computed_in": report.computed_in(found),
                }
            )
    return report.frame(rows)


#: The curves of LC's figure whose number of weights is set, to the same shares.
COUNTED = ("l0-constraint", "magnitude", "gradual")


def by_share(curves: Mapping[str, Sequence[Sequence[Run]]]) -> dict[float, dict[str, BySeed]]:
    """Share of the weights that stays → method → its accuracies (%) by seed, of ``COUNTED``.

    ``curves`` as for :func:`results_curve`.
    """
    found: dict[float, dict[str, BySeed]] = {}
    for name in COUNTED:
        for of_seeds in filter(None, curves[name]):
            found.setdefault(_amount(of_seeds[0]), {})[name] = _by_seed(of_seeds)
    return found


def least(curves: Mapping[str, Sequence[Sequence[Run]]]) -> str:
    """Which of ``COUNTED`` loses least at which share: :func:`verdict`'s lines."""
    return verdict(by_share(curves), named="{:.1%} kept".format)


def over_control(table: pd.DataFrame, *, kept: float) -> pd.DataFrame:
    """How far errors are above the dense network trained on, in points: a row a curve.

    Of :func:`results_curve`'s points that keep ``kept`` percent of the weights or more: how many
    there are, the least and the most.
    """
    rows = table[table["kept_percent"].round(1) >= kept]
    over = (rows["error"] - rows["control_error"]).groupby(rows["curve"], sort=False)
    return over.agg(points="count", least="min", most="max").reset_index()


def _amount(run: Run) -> float:
    options = dict(run.experiment["stages"][0]["options"])
    return options.get("amount", options.get("keep"))


def layer_shares(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The share of its weights (%) that each layer keeps, a column a run."""
    shares = {
        name: (100 * run.layers["kept"] / run.layers["weights"]).set_axis(run.layers["name"])
        for name, run in runs.items()
    }
    return pd.DataFrame(shares)


def head_to_head(dataset: str, network: str) -> pd.DataFrame:
    """All methods to the same budgets: a row for each method and rate, of the runs that are there.

    ``asked`` is the nominal rate of the budget, ``rate`` and ``entropy_rate`` are what the weights
    have, ``file_bytes`` is their file's size. Accuracies are in percent, drops in points, means and
    sd over seeds; ``verdict`` is on the drop. ``epochs`` are those of one compressed network,
    ``search_epochs`` those of the search that its rates come from, and ``tuning_epochs`` those of
    the ``trials`` of the method's knobs that are there, which serve all its rows. ``hours`` are
    those of one network and its search, ``tuning_hours`` those of the trials.
    """
    rows = []
    for (method, rate), experiment in comparison.rows(dataset, network).items():
        found = report.finished(experiment)
        if found:
            rows.append(_row(method, rate, experiment, found))
    return report.frame(rows)


def _row(method: str, rate: float, experiment: Experiment, found: Sequence[Run]) -> dict:
    results = pd.DataFrame([run.result for run in found])
    accuracy, lost = 100 * results["accuracy"], report.drop(found)
    trials = _trials(method)
    searches = report.finished(experiment.like) if experiment.like else []
    tried = [(trial, runs) for trial in trials if (runs := report.finished(trial, most=1))]
    return {
        "method": NAMES[method],
        "asked": rate,
        "rate": results["nominal_rate"].mean(),
        "entropy_rate": results["entropy_rate"].mean(),
        "file_bytes": report.file_bytes(found),
        "accuracy": accuracy.mean(),
        "accuracy_sd": accuracy.std(),
        "drop": lost["drop"],
        "drop_sd": lost["drop_sd"],
        "verdict": report.interval(found).verdict,
        "control_drop": report.drop(found, against="control")["drop"],
        "epochs": experiment.epochs,
        "search_epochs": experiment.like.epochs if experiment.like else 0,
        "tuning_epochs": sum(trial.epochs for trial, _ in tried),
        "trials": len(tried),
        "hours": report.hours(found) + (report.hours(searches) if searches else 0),
        "tuning_hours": sum(report.hours(runs) for _, runs in tried),
        "n": len(found),
        "computed_in": report.computed_in(found),
    }


def _trials(method: str) -> list[Experiment]:
    """The trials that a method's knobs were chosen by; of the paper's ρ those with this ρ."""
    if method not in comparison.PAPERS:
        return comparison.trials().get(method, [])
    fixed = {name: comparison.PAPERS[method][name] for name in ("rho", "rise")}
    pairs = zip(comparison.tried()["admm"], comparison.trials()["admm"], strict=True)
    return [trial for knobs, trial in pairs if fixed.items() <= knobs.items()]


def quantized(dataset: str) -> pd.DataFrame:
    """k-means at a fixed width, every weight quantized and none pruned: a row a width."""
    rows = []
    for bits in comparison.WIDTHS:
        if found := report.finished(comparison.fixed_width(dataset, bits)):
            accuracy = 100 * pd.Series([run.result["accuracy"] for run in found])
            rows.append(
                {
                    "bits": bits,
                    "rate": 32 / bits,
                    "accuracy": accuracy.mean(),
                    "accuracy_sd": accuracy.std(),
                    "drop": report.drop(found)["drop"],
                    "n": len(found),
                    "computed_in": report.computed_in(found),
                }
            )
    return report.frame(rows)


#: How weights are chosen, in the words of the table of what ADMM's allocation earns.
WAYS = {
    "admm": "ADMM's shares and bits, ADMM's weights",
    "magnitude": "ADMM's shares and bits, largest weights",
    "random": "ADMM's shares and bits, random weights",
    "threshold": "ADMM's bits and number of weights, one threshold",
    "scratch": "ADMM's network, trained from scratch",
    "magnitude-scratch": "the same with the largest weights, from scratch",
    "fixed-bitwidth": "one share for all layers (Fixed-Bitwidth)",
    "deep-compression": "one threshold for all layers (Deep Compression)",
}


def earned(dataset: str) -> pd.DataFrame:
    """What ADMM's allocation earns: a row for each way to choose the weights that stay.

    Accuracies in percent, means and sd over seeds; ``epochs`` those of all training after the dense
    network, or of all where there was none.
    """
    return report.frame(
        [
            {
                "what": name,
                "accuracy": 100 * np.mean([run.result["accuracy"] for run in runs]),
                "accuracy_sd": 100 * pd.Series([run.result["accuracy"] for run in runs]).std(),
                "rate": np.mean([run.result["nominal_rate"] for run in runs]),
                "epochs": runs[0].result["epochs"],
                "n": len(runs),
                "computed_in": report.computed_in(runs),
            }
            for name, runs in _ways(dataset).items()
        ]
    )


def earned_by_seed(dataset: str) -> dict[str, BySeed]:
    """A row of :func:`earned` → its accuracies (%) by seed."""
    return {name: _by_seed(runs) for name, runs in _ways(dataset).items()}


def _ways(dataset: str) -> dict[str, list[Run]]:
    rate = comparison.ALLOCATION_RATE[dataset]
    rows = comparison.rows(dataset, "lenet300")
    ways = {
        "admm": rows["admm", rate],
        **{kind: comparison.allocation(dataset, kind) for kind in comparison.ALLOCATIONS},
        "fixed-bitwidth": rows["fixed-bitwidth", rate],
        "deep-compression": rows["deep-compression", rate],
    }
    found = {WAYS[way]: report.finished(experiment) for way, experiment in ways.items()}
    return {name: runs for name, runs in found.items() if runs}


def worth(accuracies: Mapping[str, BySeed]) -> str:
    """What the parts of ADMM's result are worth, from :func:`earned_by_seed`: a line a part.

    Paired over the seeds that both have, with a 95 % interval over them.
    """
    pairs = {
        "ADMM's shares against one threshold, as many of the largest weights and bits in both": (
            "magnitude",
            "threshold",
        ),
        "ADMM's choice of weights against the largest, both from scratch and equally long": (
            "scratch",
            "magnitude-scratch",
        ),
        "ADMM's values, against the same weights from scratch": ("admm", "scratch"),
    }
    lines = []
    for part, (one, other) in pairs.items():
        if {WAYS[one], WAYS[other]} <= set(accuracies):
            points = _points(accuracies[WAYS[one]], accuracies[WAYS[other]])
            if points:
                lines.append(f"{part}: {_said(points, signed=True)} (n = {len(points)})")
    return "\n".join(lines)


def by_seed(dataset: str, network: str) -> dict[float, dict[str, BySeed]]:
    """Rate asked for → method → its accuracies (%) by seed, of the runs that are there."""
    found: dict[float, dict[str, BySeed]] = {}
    for (method, rate), experiment in comparison.rows(dataset, network).items():
        if runs := report.finished(experiment):
            found.setdefault(rate, {})[NAMES[method]] = _by_seed(runs)
    return found


def verdict(
    accuracies: Mapping[float, Mapping[str, BySeed]],
    *,
    named: Callable[[float], str] = "{:,.0f}×".format,
) -> str:
    """Which method is first at which rate, by how much, and where ADMM stands: one line a rate.

    ``named`` says what a line begins with, where it is not a rate. Differences are paired over the
    seeds that both methods have, with 95 % intervals over them. The first method *wins* where each
    of the others is behind it at the 5 % level by a paired test over three seeds or more, corrected
    for all comparisons in the table (Holm); else it *leads*.
    """
    ranked = {
        rate: sorted(methods, key=lambda name, of=methods: -np.mean([*of[name].values()]))
        for rate, methods in sorted(accuracies.items())
    }
    points = {
        (rate, other): _points(accuracies[rate][best], accuracies[rate][other])
        for rate, (best, *others) in ranked.items()
        for other in others
    }
    enough = {key: values for key, values in points.items() if len(values) >= 3}
    p_values = statistics.holm({k: statistics.paired_test(v) for k, v in enough.items()})
    lines = []
    for rate, (best, *others) in ranked.items():
        sure = others and all(p_values.get((rate, other), 1.0) < 0.05 for other in others)
        mean = np.mean([*accuracies[rate][best].values()])
        line = f"{named(rate)}: {best} {'wins' if sure else 'leads'} with {mean:.2f} %"
        if others:
            line += f", {_before(rate, others[0], points, p_values)} before {others[0]}"
        if NAMES["admm"] in others:
            place = others.index(NAMES["admm"]) + 2
            behind = _before(rate, NAMES["admm"], points, p_values)
            line += f"; ADMM is number {place} of {len(others) + 1}, {behind} behind"
        lines.append(f"{line}.")
    return "\n".join(lines)


def _before(rate, other, points, p_values) -> str:
    values = points[rate, other]
    p = p_values.get((rate, other))
    tested = "" if p is None else f", p = {p:.2g}"
    return f"{_said(values)} (n = {len(values)}{tested})"


def _points(one: BySeed, other: BySeed) -> list[float]:
    """Differences in points, seed by seed, of the seeds that both have."""
    return [one[seed] - other[seed] for seed in sorted(set(one) & set(other))]


def _said(points: Sequence[float], *, signed: bool = False) -> str:
    """A mean difference, and its interval over seeds where there are several."""
    found, sign = statistics.over_seeds(points), "+" if signed else ""
    if len(points) < 2:
        return f"{found.mean:{sign}.2f} points"
    return f"{found.mean:{sign}.2f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}] points"


def _by_seed(runs: Sequence[Run]) -> BySeed:
    return {run.result["seed"]: 100 * run.result["accuracy"] for run in runs}


def overlap(compressed: Run) -> pd.DataFrame:
    """How many of the weights that a run keeps are its dense network's largest, layer by layer.

    Of each layer as many of the largest are taken as the run keeps; ``by chance`` is the share that
    as many drawn at random would have in common with them.
    """
    dense = read(compressed.folder.parent / compressed.result["parent"])
    before, after = (compressible(run.model()) for run in (dense, compressed))
    rows = {}
    for name, weight in after.items():
        kept = weight.flatten() != 0
        count = int(kept.sum())
        largest = torch.zeros_like(kept)
        largest[before[name].flatten().abs().topk(count).indices] = True
        rows[name] = {
            "among the largest, %": 100 * float((kept & largest).sum()) / count,
            "by chance, %": 100 * count / len(kept),
        }
    return pd.DataFrame(rows).T.round(1)


def edges(
    trials: Mapping[str, Sequence[Experiment]], settings: Mapping[str, Sequence[dict]]
) -> str:
    """How much trials of knobs tell apart: a line a method, of those whose trials are all there.

    Which chosen knobs are the least or the largest that was tried; and how many other settings are
    within one standard error, of one accuracy on the held-out images, of the chosen one.
    """
    lines = []
    for method, wanted in trials.items():
        made = tried({method: wanted}, settings)
        if len(made) < len(wanted):
            continue
        right, best = made["accuracy"].to_numpy() / 100, int(np.flatnonzero(made["chosen"])[0])
        chosen = settings[method][best]
        values = {knob: sorted({s[knob] for s in settings[method]}) for knob in chosen}
        ends = [
            f"{knob} {value}"
            for knob, value in chosen.items()
            if not isinstance(value, (bool, str)) and value in (values[knob][0], values[knob][-1])
        ]
        error = math.sqrt(right[best] * (1 - right[best]) / HELD_OUT["mnist"])
        near = int((right[best] - right <= error).sum()) - 1
        lines.append(
            f"{NAMES[method]}: chosen at an edge of what was tried: {', '.join(ends) or 'none'}; "
            f"{near} of the {len(made) - 1} others within one standard error, "
            f"{100 * error:.2f} points"
        )
    return "\n".join(lines)


def tried(
    trials: Mapping[str, Sequence[Experiment]], settings: Mapping[str, Sequence[dict]]
) -> pd.DataFrame:
    """The trials of knobs that are there: a row each, with its accuracy (%) on held-out images.

    ``ahead`` is its difference in points to the best of the method's first six, ``ahead_se`` the
    standard error of that, paired image by image. ``chosen`` marks the first of the best of the
    six, or the best of those beyond their edges where it is ahead by more than its standard error.
    """
    rows = []
    for method, wanted in trials.items():
        found = [report.finished(experiment, most=1) for experiment in wanted]
        pairs = zip(settings[method], found, strict=True)
        there = [(i, setting, runs[0]) for i, (setting, runs) in enumerate(pairs) if runs]
        first = [(i, run) for i, _, run in there if i < FIRST_TRIALS]
        if not first:
            continue
        best, best_run = max(first, key=lambda trial: _held_out(trial[1]))
        made = []
        for i, setting, run in there:
            gained = run.correct.astype(np.int8) - best_run.correct.astype(np.int8)
            made.append(
                {
                    "method": NAMES[method],
                    "knobs": ", ".join(f"{k} {v}" for k, v in setting.items()),
                    "accuracy": _held_out(run),
                    "ahead": 100 * float(gained.mean()),
                    "ahead_se": statistics.standard_error(gained),
                    "chosen": i == best,
                    "computed_in": report.computed_in([run]),
                }
            )
        wider = made[len(first) :]
        if wider:
            further = max(wider, key=lambda row: row["ahead"])
            if further["ahead"] > further["ahead_se"]:
                made[[row["chosen"] for row in made].index(True)]["chosen"] = False
                further["chosen"] = True
        rows += made
    return report.frame(rows)


#: Settings that every method's knobs are tried at before any beyond their edges.
FIRST_TRIALS = 6


def _held_out(run: Run) -> float:
    return 100 * run.result["held_out_accuracy"]


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`head_to_head`'s table as it is read: rounded, with units."""
    table = table.sort_values("asked", kind="stable")

    def with_spread(column: str) -> list[str]:
        return [
            f"{mean:.2f}" if np.isnan(sd) else f"{mean:.2f} ± {sd:.2f}"
            for mean, sd in zip(table[column], table[f"{column}_sd"], strict=True)
        ]

    return pd.DataFrame(
        {
            "asked": [f"{rate:,.0f}×" for rate in table["asked"]],
            "method": table["method"],
            "nominal rate": [f"{rate:,.0f}×" for rate in table["rate"]],
            "entropy rate": [f"{rate:,.0f}×" for rate in table["entropy_rate"]],
            "file, bytes": report.shown(table["file_bytes"], "{:,.0f}"),
            "accuracy, %": with_spread("accuracy"),
            "drop, points": with_spread("drop"),
            "verdict": table["verdict"],
            "drop against control": [f"{drop:.2f}" for drop in table["control_drop"]],
            "epochs": table["epochs"],
            "of its search": table["search_epochs"],
            "hours": [f"{hours:.2f}" for hours in table["hours"]],
            "trials of knobs": table["trials"],
            "their epochs": table["tuning_epochs"],
            "their hours": [f"{hours:.2f}" for hours in table["tuning_hours"]],
            "n": table["n"],
            **report.shown_computed_in(table),
        }
    )


# ------------------------------------------------------------- committed rows, shown in notebooks


def committed_curve() -> str:
    """LC's figure from the committed MNIST runs, as text; one line where there is none."""
    table = results_curve(finished_curves("mnist"))
    if table.empty:
        return report.none("LC's figure of results", "mnist")
    return _headed(f"{curve.NETWORK} on MNIST", table, "{:.3g}")


def committed_tenth() -> str:
    """Errors above the control's on MNIST, of points that keep a tenth or more; or one line."""
    table = results_curve(finished_curves("mnist"))
    if table.empty:
        return report.none("LC's figure of results", "mnist")
    heading = "10 % kept or more, error above the dense network trained on, points"
    return _headed(heading, over_control(table, kept=10), "{:+.2f}")


def committed_least() -> str:
    """Which of the methods that are told how many weights to keep loses least on MNIST, as text."""
    return least(finished_curves("mnist")) or report.none("LC's figure of results", "mnist")


def finished_curves(dataset: str) -> dict[str, list[list[Run]]]:
    """The runs of LC's figure that are there."""
    return {
        name: [report.finished(experiment) for experiment in points]
        for name, points in curve.curves(dataset).items()
    }


def committed_head_to_head() -> str:
    """The head to head from the committed MNIST runs, network by network, as text; or one line."""
    parts = []
    for network in comparison.RATES["mnist"]:
        table = head_to_head("mnist", network)
        if not table.empty:
            said = verdict(by_seed("mnist", network))
            parts += [f"{network} on MNIST", printed(table).to_string(index=False), said]
    return "\n\n".join(parts) or report.none("the head to head", "mnist")


def committed_trials() -> str:
    """The trials of knobs on images held out of MNIST's training split, as text; or one line."""
    made = ((comparison.trials(), comparison.tried()), (curve.trials(), curve.TRIALS))
    heading = "images held out of MNIST's training split, accuracy in %"
    parts = [_headed(heading, table) for each in made if not (table := tried(*each)).empty]
    parts += [edges(*each) for each in made]
    return "\n\n".join(filter(None, parts)) or report.none("the trials of knobs", "mnist")


def committed_earned() -> str:
    """What ADMM's allocation earns on MNIST, from the committed runs, as text; or one line."""
    table = earned("mnist")
    if table.empty:
        return report.none("what the allocation earns", "mnist")
    rate = comparison.ALLOCATION_RATE["mnist"]
    heading = f"lenet300 on MNIST, {rate:,.0f}× asked for, accuracy in %"
    return f"{_headed(heading, table)}\n\n{worth(earned_by_seed('mnist'))}"


def committed_overlap() -> str:
    """How many of ADMM's weights on MNIST are its dense network's largest, as text; or one line."""
    rate = comparison.ALLOCATION_RATE["mnist"]
    found = report.finished(comparison.rows("mnist", "lenet300")["admm", rate], most=1)
    return overlap(found[0]).to_string() if found else report.none("ADMM's allocation", "mnist")


def committed_claims() -> str:
    """How LC stands against the dense network trained on, and against pruning, on MNIST.

    Errors in percent, paired differences over seeds in points.
    """
    drawn = curve.curves("mnist")
    pairs = zip(drawn["l0-constraint"], drawn["magnitude"], drawn["gradual"], strict=True)
    rows = [
        (f"{share:.1%} kept", *compared) for share, compared in zip(curve.KEPT, pairs, strict=True)
    ]
    again = curve.longer()
    name = "{kept:.1%} kept, {epochs} epochs".format(**curve.LONGER)
    rows.append((name, again["l0-constraint"], again["magnitude"]))
    lines = [_claim(name, *map(report.finished, compared)) for name, *compared in rows]
    return "\n".join(filter(None, lines)) or report.none("LC's figure of results", "mnist")


def _claim(name: str, lc: Sequence[Run], *others: Sequence[Run]) -> str:
    """One line of :func:`committed_claims`; empty without a run of LC."""
    if not lc:
        return ""
    mine = _by_seed(lc)
    control = {run.result["seed"]: 100 * run.result["control_accuracy"] for run in lc}
    against = {"the dense network trained on": control}
    for pruning, runs in zip(("one-shot", "gradual"), others, strict=False):
        against[f"{pruning} pruning"] = _by_seed(runs)
    parts = [
        f"{statistics.over_seeds(points).said} against {what} (n = {len(points)})"
        for what, other in against.items()
        if (points := _points(other, mine))  # of errors
    ]
    return f"{name}: LC-ℓ0 {_error(lc):.2f} %; {'; '.join(parts)}"


def _error(found: Sequence[Run]) -> float:
    return 100 * (1 - float(np.mean([run.result["accuracy"] for run in found])))


def committed_quantized() -> str:
    """k-means at a fixed width on MNIST, from the committed runs, as text; or one line."""
    table = quantized("mnist")
    if table.empty:
        return report.none("k-means at a fixed width", "mnist")
    return _headed("lenet300 on MNIST, accuracy in %", table)


def _headed(heading: str, table: pd.DataFrame, form: str = "{:.2f}") -> str:
    return f"{heading}\n{table.to_string(index=False, float_format=form.format)}"
