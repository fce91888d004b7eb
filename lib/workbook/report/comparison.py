"""All methods head to head, and what ADMM's allocation earns: run folders → tables."""

from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from lib.layers import compressible
from lib.workbook import experiments
from lib.workbook.experiments import Experiment
from lib.workbook.report import rows, statistics
from lib.workbook.report.columns import columns, headed, numbers, shown
from lib.workbook.report.rows import Runs, by_seed, finished
from lib.workbook.runs import Run, read

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


def head_to_head(dataset: str, network: str) -> pd.DataFrame:
    """All methods to the same budgets: a row for each method and rate, of the runs that are there.

    ``asked`` is the nominal rate of the budget, ``rate`` and ``entropy_rate`` are what the weights
    have, ``file_bytes`` is their file's size. Accuracies are in percent, drops in points, means and
    sd over seeds; ``verdict`` is on the drop. ``epochs`` are those of one compressed network,
    ``search_epochs`` those of the search that its rates come from, and ``tuning_epochs`` those of
    the ``trials`` of the method's knobs that are there, which serve all its rows. ``hours`` are
    those of one network and its search, ``tuning_hours`` those of the trials.
    """
    wanted = experiments.comparison.rows(dataset, network)
    columns = (
        "rate entropy_rate file_bytes accuracy accuracy_sd drop drop_sd verdict control_drop epochs"
    )
    made = []
    for (method, rate), found in finished(wanted).items():
        like = wanted[method, rate].like
        tried = finished({trial: trial for trial in _trials(method)}, most=1)
        spent = {
            "search_epochs": like.epochs if like else 0,
            "tuning_epochs": sum(trial.epochs for trial in tried),
            "trials": len(tried),
            "hours": _hours(found) + (_hours(finished(like)) if like else 0),
            "tuning_hours": sum(map(_hours, tried.values())),
        }
        known = rows.summary(found, columns) | spent | rows.summary(found, "n computed_in")
        made.append({"method": NAMES[method], "asked": rate} | known)
    return rows.frame(made)


def _hours(found: Runs) -> float:
    return rows.summary(found, "hours")["hours"] if found else 0.0


def _trials(method: str) -> list[Experiment]:
    """The trials that a method's knobs were chosen by; of the paper's ρ those with this ρ."""
    if method not in experiments.comparison.PAPERS:
        return experiments.comparison.trials().get(method, [])
    fixed = {name: experiments.comparison.PAPERS[method][name] for name in ("rho", "rise")}
    pairs = zip(
        experiments.comparison.tried()["admm"], experiments.comparison.trials()["admm"], strict=True
    )
    return [trial for knobs, trial in pairs if fixed.items() <= knobs.items()]


def quantized(dataset: str) -> pd.DataFrame:
    """k-means at a fixed width, every weight quantized and none pruned: a row a width."""
    widths = experiments.comparison.WIDTHS
    wanted = {(b, 32 / b): experiments.comparison.fixed_width(dataset, b) for b in widths}
    return rows.table(finished(wanted), ["bits", "rate"], "accuracy accuracy_sd drop n")


def quantized_text() -> str:
    """:func:`quantized` of MNIST; empty where no run is there."""
    return headed("lenet300 on MNIST, accuracy in %", numbers(quantized("mnist")))


#: How weights are chosen, in the words and the order of the table of what ADMM's allocation earns.
WAYS = {
    "admm": "ADMM's shares and bits, ADMM's weights",
    "magnitude": "ADMM's shares and bits, largest weights",
    "random": "ADMM's shares and bits, random weights",
    "scratch": "ADMM's network, trained from scratch",
    "magnitude-scratch": "the same with the largest weights, from scratch",
    "threshold": "ADMM's bits and number of weights, one threshold",
    "fixed-bitwidth": "one share for all layers (Fixed-Bitwidth)",
    "deep-compression": "one threshold for all layers (Deep Compression)",
}


def weight_choices(dataset: str) -> pd.DataFrame:
    """What ADMM's allocation earns: a row for each way to choose the weights that stay.

    Accuracies in percent, means and sd over seeds; ``epochs`` those of all training after the dense
    network, or of all where there was none.
    """
    made = rows.table(_ways(dataset), ["what"], "share share_sd rate epochs n")
    if made.empty:
        return made
    made[["share", "share_sd"]] *= 100
    return made.rename(columns={"share": "accuracy", "share_sd": "accuracy_sd"})


def weight_choices_by_seed(dataset: str) -> dict[str, pd.Series]:
    """A row of :func:`weight_choices` → its accuracies (%) by seed."""
    return {name: by_seed(found) for name, found in _ways(dataset).items()}


def _ways(dataset: str) -> dict[str, list[Run]]:
    rate = experiments.comparison.ALLOCATION_RATE[dataset]
    compared = experiments.comparison.rows(dataset, "lenet300")
    wanted = {
        name: experiments.comparison.allocation(dataset, way)
        if way in experiments.comparison.ALLOCATIONS
        else compared[way, rate]
        for way, name in WAYS.items()
    }
    return finished(wanted)


def choice_gains(accuracies: Mapping[str, pd.Series]) -> str:
    """What each part of ADMM's result gains, from :func:`weight_choices_by_seed`: a line a part.

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
    for part, ways in pairs.items():
        one, other = (accuracies.get(WAYS[way], by_seed(())) for way in ways)
        points = (one - other).dropna()
        if len(points):
            said = statistics.over_seeds(points).said_as("{:+.2f}")
            lines.append(f"{part}: {said} (n = {len(points)})")
    return "\n".join(lines)


def accuracies_by_rate(dataset: str, network: str) -> dict[float, dict[str, pd.Series]]:
    """Rate asked for → method → its accuracies (%) by seed, of the runs that are there."""
    made: dict[float, dict[str, pd.Series]] = {}
    for (method, rate), found in finished(experiments.comparison.rows(dataset, network)).items():
        made.setdefault(rate, {})[NAMES[method]] = by_seed(found)
    return made


def verdict(
    accuracies: Mapping[float, Mapping[str, pd.Series]],
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
        rate: sorted(methods, key=lambda name, of=methods: -of[name].mean())
        for rate, methods in sorted(accuracies.items())
    }
    points = {
        (rate, other): (accuracies[rate][best] - accuracies[rate][other]).dropna()
        for rate, (best, *others) in ranked.items()
        for other in others
    }
    p_values = statistics.holm(
        {key: statistics.paired_test(v) for key, v in points.items() if len(v) >= 3}
    )

    def before(*key: float | str) -> str:
        tested = f", p = {p_values[key]:.2g}" if key in p_values else ""
        return f"{statistics.over_seeds(points[key]).said_as()} (n = {len(points[key])}{tested})"

    lines = []
    for rate, (best, *others) in ranked.items():
        sure = others and all(p_values.get((rate, other), 1.0) < 0.05 for other in others)
        does, mean = "wins" if sure else "leads", accuracies[rate][best].mean()
        line = f"{named(rate)}: {best} {does} with {mean:.2f} %"
        if others:
            line += f", {before(rate, others[0])} before {others[0]}"
        if NAMES["admm"] in others:
            place, behind = others.index(NAMES["admm"]) + 2, before(rate, NAMES["admm"])
            line += f"; ADMM is number {place} of {len(others) + 1}, {behind} behind"
        lines.append(f"{line}.")
    return "\n".join(lines)


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
        largest = before[name].flatten().abs().topk(count).indices
        rows[name] = {
            "among the largest, %": 100 * int(kept[largest].sum()) / count,
            "by chance, %": 100 * count / len(kept),
        }
    return pd.DataFrame(rows).T.round(1)


def overlap_text() -> str:
    """:func:`overlap` of the run of MNIST, seed 0; empty where it is not there."""
    found = _ways("mnist").get(WAYS["admm"])
    return overlap(found[0]).to_string() if found else ""


#: :func:`head_to_head`'s table as it is read, with the spread of its means.
HEAD_TO_HEAD = columns(
    "asked method rate entropy_rate file_bytes accuracy drop verdict control_drop epochs "
    "search_epochs hours trials tuning_epochs tuning_hours n",
    asked=("asked", "{:,.0f}×"),
    drop=("drop, points", "{:.2f}"),
    epochs=("epochs", None),
    search_epochs=("of its search", None),
    trials=("trials of knobs", None),
    tuning_epochs=("their epochs", None),
    tuning_hours=("their hours", "{:.2f}"),
    n=("n", None),
)


def head_to_head_shown(table: pd.DataFrame) -> pd.DataFrame:
    """:func:`head_to_head`'s table as it is read, rate by rate."""
    return shown(table.sort_values("asked", kind="stable"), HEAD_TO_HEAD, spread=True)


def by_network() -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Each network of MNIST's head to head, its table as it is read, and who wins."""
    for network in experiments.comparison.RATES["mnist"]:
        table = head_to_head("mnist", network)
        if not table.empty:
            said = verdict(accuracies_by_rate("mnist", network))
            yield network, head_to_head_shown(table), said


def head_to_head_text() -> str:
    """The head to head of MNIST, network by network, and who wins; empty where no run is there."""
    return "\n\n".join(
        f"{network} on MNIST\n\n{table.to_string(index=False)}\n\n{said}"
        for network, table, said in by_network()
    )


def weight_choices_text() -> str:
    """What ADMM's allocation earns on MNIST; empty where no run is there."""
    rate = experiments.comparison.ALLOCATION_RATE["mnist"]
    heading = f"lenet300 on MNIST, {rate:,.0f}× asked for, accuracy in %"
    gains = choice_gains(weight_choices_by_seed("mnist"))
    return f"{headed(heading, numbers(weight_choices('mnist')))}\n\n{gains}".strip()
