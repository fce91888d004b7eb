"""Run folders in, tables out: the papers' numbers beside ours, drops paired seed by seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lib import accounting, archive, atomic, data, paths
from lib.workbook import experiments, runs
from lib.workbook.experiments import Experiment
from lib.workbook.report import statistics
from lib.workbook.runs import Run

#: What our rows state and the paper's do not.
OURS = (
    "drop_sd",
    "drop_low",
    "drop_high",
    "interval_over",
    "verdict",
    "control_drop",
    "n",
    "dense_accuracy",
    "accuracy",
    "entropy_rate",
    "file_bytes",
)


def reported(name: str) -> pd.DataFrame:
    """A table of a paper as the paper prints it, such as ``admm_table3``."""
    return pd.read_csv(paths.REPORTED / f"{name}.csv")


def save(table: pd.DataFrame, name: str, folder: Path) -> None:
    """Writes ``name``.csv into ``folder``, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write(folder / f"{name}.csv", table.to_csv(index=False).encode())


def finished(experiment: Experiment, *, most: int = 100) -> list[Run]:
    """The finished runs of an experiment, seed by seed; nothing is trained."""
    found = (runs.folder_of(experiment, seed) for seed in range(most))
    return [runs.read(folder) for folder in found if runs.present(folder)]


def computed_in(found: Sequence[Run]) -> str:
    """What some runs computed in: ``float32``, ``bfloat16``, or both."""
    return " and ".join(
        dict.fromkeys(kind for run in found for kind in run.computed_in.split(" and "))
    )


def frame(rows: Sequence[Mapping]) -> pd.DataFrame:
    """Rows of ours as a table; the column ``computed_in`` stays only where they differ in it."""
    made = pd.DataFrame(rows)
    if "computed_in" in made and made["computed_in"].nunique() == 1:
        return made.drop(columns="computed_in")
    return made


def shown_computed_in(table: pd.DataFrame) -> dict[str, list[str]]:
    """The column of a printed table that says what rows computed in; none where they agree."""
    if "computed_in" not in table:
        return {}
    return {"computed in": shown(table["computed_in"], "{}")}


def drop(compressed: Sequence[Run], *, against: str = "dense") -> dict[str, float]:
    """The accuracy lost, in points, as paired differences over seeds.

    ``against`` is ``dense`` (the network that was compressed) or ``control`` (the same trained on
    for as long).
    Returns ``drop`` (mean), ``drop_sd`` (over seeds, NaN for one) and ``n``.
    """
    losses = _losses(compressed, against)
    spread = float(np.std(losses, ddof=1)) if len(losses) > 1 else float("nan")
    return {"drop": float(np.mean(losses)), "drop_sd": spread, "n": len(losses)}


def interval(compressed: Sequence[Run], *, against: str = "dense") -> statistics.Interval:
    """The accuracy lost, in points, with a 95 % interval, which says what it is over.

    Of several runs it is over seeds, of the differences paired seed by seed (Student's t). Of one
    run it is over test images: the same images for both networks, so that what both get right or
    wrong cancels. That one says nothing about other seeds.
    """
    if len(compressed) == 1:
        return statistics.over_images(_lost(compressed[0], against))
    return statistics.over_seeds(_losses(compressed, against))


def _losses(compressed: Sequence[Run], against: str) -> list[float]:
    key = {"dense": "dense_accuracy", "control": "control_accuracy"}[against]
    return [100 * (run.result[key] - run.result["accuracy"]) for run in compressed]


def file_bytes(found: Sequence[Run]) -> float:
    """The mean size of the runs' files; NaN where one is older than the archive."""
    sizes = [run.result["file_bytes"] for run in found]
    return float("nan") if None in sizes else float(np.mean(sizes))


def hours(found: Sequence[Run]) -> float:
    """How long one of the runs was trained, in hours: the mean over seeds, its parent's left out.

    Of one thread, for a run on a CPU. Machines differ, and so does what ran beside it.
    """
    return float(np.mean([run.result["train_seconds"] for run in found])) / 3600


def features() -> pd.DataFrame:
    """ADMM Table 1: which automated method has which feature; the tables that have rows of it."""
    table = reported("admm_table1")
    there = {number: set(reported(f"admm_table{number}")["method"]) for number in (2, 3, 4)}
    rows = [", ".join(str(n) for n in there if name in there[n]) for name in table["method"]]
    return table.rename(columns={"end_to_end": "end-to-end"}).assign(**{"rows in tables": rows})


def table_3(rows: Sequence[Sequence[Run]], *, dataset: str) -> pd.DataFrame:
    """ADMM Table 3: the paper's rows, then ours, a row for each experiment's runs over seeds.

    Ours also have the absolute accuracy (%), the drop against the dense network trained on, the
    entropy rate and the bytes of the network's file. The paper states the accuracy of its own dense
    network; its compressed one has that less the drop.
    """
    paper = reported("admm_table3").assign(source="reported", data="mnist")
    paper["automated"] = paper["automated"] == "yes"
    paper["accuracy"] = paper["dense_accuracy"] - paper["drop_points"]
    ours = frame([_row(r, dataset) for r in rows if r])
    stated = paper.columns.difference(OURS, sort=False)
    columns = [*stated, *OURS, *ours.columns.intersection(["computed_in"])]
    return pd.concat([paper, ours]).reindex(columns=columns)  # the same where no row is ours


def levels(table: pd.DataFrame) -> str:
    """The accuracies of Table 3's networks, which a drop does not show: ours and the paper's.

    Ours are those of ``table`` (:func:`table_3`) at the paper's nominal rate and beyond.
    """
    (paper,) = table[(table["source"] == "reported") & table["accuracy"].notna()].to_dict("records")
    ours = table[(table["source"] == "ours") & (table["rate"] >= paper["rate"])]

    def between(column: str) -> str:
        return f"{ours[column].min():.2f} to {ours[column].max():.2f} %"

    if ours.empty:
        return f"No row of ours is at the paper's rate of {paper['rate']:,.0f}×."
    return (
        f"At the paper's rate of {paper['rate']:,.0f}× and beyond, our compressed networks "
        f"({len(ours)} rows) have {between('accuracy')}; "
        f"the paper's has {paper['accuracy']:.1f} %. "
        f"Our dense networks have {between('dense_accuracy')}; "
        f"the paper's has {paper['dense_accuracy']:.1f} %."
    )


def table_4(rows: Sequence[Sequence[Run]], *, dataset: str) -> pd.DataFrame:
    """ADMM Table 4: the paper's rows, then ours, a row for each experiment's runs over seeds.

    As :func:`table_3`; besides, the network, the mode (``joint``, ``prune`` or ``quantize``), the
    epochs of the dense network and of what followed, and ``paper_rate``: 32·n over the bits that
    the mode's budget counts (:func:`lib.accounting.paid`). For joint rows it is ``rate``, our
    nominal rate. When only quantizing, every weight pays and zero is a value like others, which
    ``rate``, of nonzero weights and nonzero values, flatters; when only pruning, so does a layer so
    small that its values would fit a codebook. ``mean_bits`` is over the weights that pay.
    """
    paper = reported("admm_table4").assign(source="reported", data="cifar10")
    paper["paper_rate"] = paper["rate"]
    ours = frame([_row(found, dataset) | _epochs(found[0]) for found in rows if found])
    table = pd.concat([paper, ours], ignore_index=True)
    columns = [*paper.columns, *OURS, "dense_epochs", "epochs"]
    columns += ours.columns.intersection(["computed_in"]).tolist()
    return table.reindex(columns=list(dict.fromkeys(columns)))


def uniform(table: pd.DataFrame) -> pd.DataFrame:
    """A layer table whose budget is spent evenly: the same share kept and bits in every layer."""
    share = table["kept"].sum() / table["weights"].sum()
    bits = (table["kept"] * table["bits"]).sum() / table["kept"].sum()
    return table.assign(kept=(share * table["weights"]).round().astype(int), bits=bits)


def allocations(rows: Sequence[Sequence[Run]]) -> dict[str, dict[str, pd.DataFrame]]:
    """ADMM Figure 3 for Table 4's networks: network → label of a row → layer table of its seed 0.

    ``bits`` are as the row's mode counts them. Rows that only prune choose none and are left out.
    """
    tables = {}
    for run in (found[0] for found in rows if found[0].result["mode"] != "prune"):
        bits = accounting.paid(run.layers, run.result["mode"])["bits"]
        dense, then = _epochs(run).values()
        name = f"{label(run)}, {run.result['budget']:,} bits, {dense} + {then} epochs"
        tables.setdefault(run.result["network"], {})[name] = run.layers.assign(bits=bits)
    return tables


def figure_2(histories: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """ADMM Figure 2 in numbers, a row a ρ: the last epoch's losses (nats), and the MSE's path.

    ``histories`` maps ρ to the history of a traced run. ``mse_peak`` is the largest MSE of W and V
    after any epoch, ``mse_peak_epoch`` that epoch, ``mse`` the last one; the accuracies (%) are
    those of the final W on the test split, as it is and quantized.
    """
    rows = []
    for rho, history in histories.items():
        last = history.iloc[-1]
        rows.append(
            {
                "rho": rho,
                "loss": last["loss"],
                "quantized_loss": last["compressed_loss"],
                "mse_first": history["mse"].iloc[0],
                "mse_peak": history["mse"].max(),
                "mse_peak_epoch": int(history["epoch"][history["mse"].idxmax()]),
                "mse": last["mse"],
                "accuracy": 100 * last["test_accuracy"],
                "quantized_accuracy": 100 * last["compressed_test_accuracy"],
            }
        )
    return pd.DataFrame(rows)


def figure_2_claims(table: pd.DataFrame) -> str:
    """What the paper says of Figure 2, held against :func:`figure_2`'s table of its four ρ.

    A line a claim: whether it holds, and by which numbers. A rise counts from double the first MSE
    on, a fall from half the peak down, and "vanishes" is below 1 % of the peak; these margins are
    ours, as the paper names none.
    """
    paper = table[table["rho"].isin(experiments.FIGURE_2_RHOS)].set_index("rho")
    losses = ", ".join(f"{loss:.4f}" for loss in paper["loss"])
    best = paper["quantized_loss"].idxmin()
    rises = paper["mse_peak"] > 2 * paper["mse_first"]
    both = paper.index[rises & (paper["mse"] < paper["mse_peak"] / 2)]
    left = 100 * paper.loc[experiments.RHO, "mse"] / paper.loc[experiments.RHO, "mse_peak"]
    shares = ", ".join(f"{100 * row.mse / row.mse_peak:.0f} %" for row in paper.itertuples())
    claims = [
        ("a smaller ρ gives a lower loss of W", paper["loss"].is_monotonic_increasing, losses),
        (
            "the lowest quantized loss is not at the smallest ρ",
            best != paper.index.min(),
            f"it is at ρ = {best:g}",
        ),
        (
            "the MSE of W and V first rises, then falls",
            len(both) == len(paper),
            f"at {len(both)} of {len(paper)} ρ; at the end {shares} of the peak are left",
        ),
        (
            f"ρ = {experiments.RHO:g} is enough for the MSE to vanish",
            left < 1,
            f"{left:.0f} % of its peak are left",
        ),
    ]
    return "\n".join(
        f"{claim}: {'holds' if holds else 'does not hold'} ({numbers})"
        for claim, holds, numbers in claims
    )


def file_parts(run: Run) -> dict[str, float]:
    """What the file of the final network holds, in bytes; the parts sum to its size.

    ``values``, ``positions`` and ``codebooks`` of the layers' weights; ``biases`` are all vectors,
    normalisation among them; ``frame`` is header, checksum and rounding.
    """
    parts = archive.parts(run.file(run.state()))
    matrices = parts["shape"].str.contains("×", na=False)
    layers = parts[matrices]
    return {
        "values": layers["values"].sum(),
        "positions": layers["positions"].sum(),
        "codebooks": layers["codebook"].sum(),
        "biases": parts["total"][~matrices & parts["shape"].notna()].sum(),
        "frame": parts["total"][parts["shape"].isna()].sum(),
    }


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it is read: rounded, with units, a dash where nothing is stated.

    ``table`` is :func:`table_3`'s or :func:`table_4`'s; the second's own columns are shown too.
    """
    networks = "network" in table
    rate = "{:,.1f}×" if networks else "{:,.0f}×"
    columns = {
        **({"network": table["network"]} if networks else {}),
        "method": table["method"],
        **({"mode": table["mode"]} if networks else {}),
        "data": table["data"],
        "nonzero, %": shown(table["nonzero_percent"], "{:.1f}"),
        "mean bits": shown(table["mean_bits"], "{:.2f}"),
        **({"rate as in the paper": shown(table["paper_rate"], rate)} if networks else {}),
        "nominal rate": shown(table["rate"], rate),
        "drop, points": shown(table["drop_points"], "{:.2f}"),
        "sd": shown(table["drop_sd"], "{:.2f}"),
        "verdict": shown(table["verdict"], "{}"),
        "n": shown(table["n"], "{:.0f}"),
        **({"epochs, dense + then": _schedules(table)} if networks else {}),
        "drop against control": shown(table["control_drop"], "{:.2f}"),
        "dense, %": shown(table["dense_accuracy"], "{:.2f}"),
        "compressed, %": shown(table["accuracy"], "{:.2f}"),
        "entropy rate": shown(table["entropy_rate"], "{:,.0f}×"),
        "file, bytes": shown(table["file_bytes"], "{:,.0f}"),
        **shown_computed_in(table),
    }
    return pd.DataFrame(columns).reset_index(drop=True)


# ------------------------------------------------------------- committed rows, shown in notebooks


def committed_table_3() -> str:
    """Table 3 from the committed MNIST runs, as text; one line that says so where none is there."""
    rows = [found for e in experiments.table_3("mnist") if (found := finished(e))]
    if not rows:
        return none("Table 3", "mnist")
    return printed(table_3(rows, dataset="mnist")).to_string(index=False)


def committed_rows_4() -> dict[str, list[list[Run]]]:
    """Table 4's runs, those of an experiment together, of CIFAR-10 and of its JPEG mirror.

    By the full schedule as far as there are any, then by a shorter one. The mirror's pixels stand
    in for CIFAR-10's: a row that is there on CIFAR-10 is left out of the mirror's.
    """
    found, exact = {}, set()
    for dataset, shorter in (("cifar10", "cpu"), ("cifar10-jpeg", "short")):
        wanted = [
            *experiments.table_4(dataset).items(),
            *experiments.table_4(dataset, length=shorter).items(),
        ]
        there = [(key, runs) for key, e in wanted if key not in exact and (runs := finished(e))]
        if dataset == "cifar10":
            exact = {key for key, _ in there}
        found[dataset] = [runs for _, runs in there]
    return found


def committed_levels() -> str:
    """:func:`levels` of the committed MNIST runs; or one line."""
    rows = [found for e in experiments.table_3("mnist") if (found := finished(e))]
    return levels(table_3(rows, dataset="mnist")) if rows else none("Table 3", "mnist")


def committed_file_parts() -> str:
    """What the files of Table 3's committed rows hold, in bytes, means over seeds; or one line."""
    found = [runs for e in experiments.table_3("mnist") if (runs := finished(e))]
    if not found:
        return none("Table 3", "mnist")
    parts = pd.DataFrame([pd.DataFrame(map(file_parts, runs)).mean() for runs in found])
    shown = parts.assign(total=parts.sum(axis=1)).round().astype(int)
    shown.insert(0, "row", [f"{_rate(runs)}, {label(runs[0])}" for runs in found])
    return shown.assign(largest=parts.idxmax(axis=1)).to_string(index=False)


def _rate(found: Sequence[Run]) -> str:
    return f"{np.mean([run.result['nominal_rate'] for run in found]):,.0f}×"


def committed_table_4() -> str:
    """Table 4 from the committed runs, as text; or one line.

    The paper's rows stand with ours of the same pixels; those of other pixels have a table of their
    own.
    """
    rows = committed_rows_4()
    if not any(rows.values()):
        return none("Table 4", "cifar10")
    return "\n\n".join(
        f"{data.describe(dataset)}\n{part.to_string(index=False)}"
        for dataset, part in parts_4(rows).items()
    )


def parts_4(rows: Mapping[str, Sequence[Sequence[Run]]]) -> dict[str, pd.DataFrame]:
    """Data set → :func:`printed` Table 4 of its pixels: the paper's rows and ours on CIFAR-10."""
    tables = {name: table_4(found, dataset=name) for name, found in rows.items()}
    parts = {}
    for name, table in tables.items():
        part = table if name == "cifar10" else table[table["source"] == "ours"]
        stated = printed(part).drop(columns="data")
        if len(part):
            parts[name] = stated.loc[:, (stated != "–").any()]
    return parts


def committed_figure_2() -> str:
    """Figure 2's last epoch from the committed MNIST runs, as text; or one line."""
    found = {rho: finished(e, most=1) for rho, e in experiments.figure_2("mnist").items()}
    histories = {rho: seeds[0].history for rho, seeds in found.items() if seeds}
    if not histories:
        return none("Figure 2", "mnist")
    return figure_2(histories).to_string(index=False, float_format="{:.3g}".format)


def committed_layers() -> str:
    """Figure 3's allocation from the committed MNIST runs (seed 0), as text; or one line."""
    found = [finished(e, most=1) for e in experiments.table_3("mnist")]
    parts = []
    for run in (seeds[0] for seeds in found if seeds):
        layers, even = run.layers, uniform(run.layers)
        table = layers[["name", "weights", "kept", "bits"]].assign(
            kept_percent=(100 * layers["kept"] / layers["weights"]).map("{:.2f}".format),
            uniform_kept=even["kept"],
            uniform_bits=even["bits"].map("{:.2f}".format),
        )
        rate = f"{run.result['nominal_rate']:,.0f}×, {label(run)}"
        parts.append(f"{rate}\n{table.to_string(index=False)}")
    return "\n\n".join(parts) or none("Figure 3", "mnist")


def committed_speed() -> str:
    """Where an epoch's time goes, as it was measured, as text; one line where it was not."""
    files = sorted((paths.results("cifar10") / "benchmarks").glob("speed-*.csv"))
    if not files:
        return "Not measured on CIFAR yet; notebook 31 says how."
    parts = []
    for table in map(pd.read_csv, files):
        first = table.iloc[0]
        where = first["device"] if first["device"] != "cpu" else f"{first['cpu']}, on the CPU"
        heading = (
            f"{first['network']} on {data.describe(first['dataset'])}, batch {first['batch']}; "
            f"{where}, {first['threads']} threads, torch {first['torch']}"
        )
        parts.append(f"{heading}\n{speed(table).to_string(index=False)}")
    return "\n\n".join(parts)


def speed(table: pd.DataFrame) -> pd.DataFrame:
    """Notebook 31's ladder as it is read: images a second, and ratios to the row before and all.

    Of a GPU also a step's launches and waits.
    """
    counted = [column for column in ("launches", "waits") if column in table]
    return pd.DataFrame(
        {
            "step": table["step"],
            "images/s": table["images_per_second"].map("{:,.0f}".format),
            "times the one before": shown(table["times_before"], "{:.2f}×"),
            "times the plain loop": table["times_plain"].map("{:.2f}×".format),
            **{column: shown(table[column], "{:,.0f}") for column in counted},
        }
    )


def none(name: str, dataset: str) -> str:
    """The line that stands where there is nothing to show yet."""
    return (
        f"No run of {name} is committed yet ({data.describe(dataset)}); "
        f"make reproduce DATASET={dataset} trains them."
    )


def shown(column: pd.Series, form: str, *, unknown: str = "–") -> list[str]:
    """A table's column as it is read: formatted, ``unknown`` where nothing is stated."""
    return [unknown if pd.isna(value) else form.format(value) for value in column]


def _schedules(table: pd.DataFrame) -> list[str]:
    columns = (shown(table[name], "{:.0f}") for name in ("dense_epochs", "epochs"))
    return [
        "–" if dense == "–" else f"{dense} + {then}" for dense, then in zip(*columns, strict=True)
    ]


def row(compressed: Sequence[Run], dataset: str, *, method: str, mode: str) -> dict:
    """A row of ours: an experiment's runs over seeds, the drops as means of paired differences.

    ``mode`` says what the budget counts (:func:`lib.accounting.paid`); ``method`` is the row's
    name.
    """
    results = pd.DataFrame([run.result for run in compressed])
    mean = results.mean(numeric_only=True)
    lost, against_control = drop(compressed), drop(compressed, against="control")
    drop_interval = interval(compressed)
    paid = [accounting.paid(run.layers, mode) for run in compressed]
    bits = [(spent["weights"] * spent["bits"]).sum() for spent in paid]
    weights = compressed[0].layers["weights"].sum()
    return {
        "network": compressed[0].result["network"],
        "mode": mode,
        "method": method,
        "source": "ours",
        "data": dataset,
        "automated": True,
        "nonzero_percent": 100 * mean["kept_fraction"],
        "mean_bits": sum(bits) / sum(spent["weights"].sum() for spent in paid),
        "rate": mean["nominal_rate"],
        "paper_rate": float(np.mean(32 * weights / np.array(bits))),
        "drop_points": lost["drop"],
        "drop_sd": lost["drop_sd"],
        "drop_low": drop_interval.low,
        "drop_high": drop_interval.high,
        "interval_over": drop_interval.over,
        "verdict": drop_interval.verdict,
        "control_drop": against_control["drop"],
        "n": len(compressed),
        "dense_accuracy": 100 * mean["dense_accuracy"],
        "accuracy": 100 * mean["accuracy"],
        "entropy_rate": mean["entropy_rate"],
        "file_bytes": file_bytes(compressed),
        "computed_in": computed_in(compressed),
    }


def _row(compressed: Sequence[Run], dataset: str) -> dict:
    first = compressed[0]
    name = f"ADMM (ours, {label(first)})"
    return row(compressed, dataset, method=name, mode=first.result["mode"])


def _epochs(run: Run) -> dict[str, int]:
    """How long the dense network was trained, and how long what followed took."""
    experiment, after = run.experiment, 0
    while "parent" in experiment:
        after += _length(experiment)
        experiment = experiment["parent"]
    return {"dense_epochs": _length(experiment), "epochs": after}


def _length(experiment: dict) -> int:
    return sum(stage["schedule"]["epochs"] for stage in experiment["stages"])


def label(run: Run) -> str:
    """What tells our rows apart: the bits at the start, an unusual ρ, and tuned codebooks.

    Of a run that only prunes or only quantizes, that it does: its first bits mean nothing.
    """
    experiment = run.experiment
    methods = [stage["method"] for stage in experiment["stages"]]
    tuned = methods[-1] == "tune-codebooks"
    compression = experiment["parent"] if methods[0] == "tune-codebooks" else experiment
    options = dict(compression["stages"][0]["options"])
    start = options.get("start_bits", experiments.ADMM_DEFAULTS["start_bits"])
    bits = {
        "prune": "pruning only",
        "quantize": "quantization only",
        "joint": f"from {start} bit{'s' if start > 1 else ''}",
    }[run.result["mode"]]
    rho = options.get("rho", experiments.RHO)
    rising = options.get("growth", 1.0) > 1
    usual = rho == experiments.RHO and not rising
    pull = "" if usual else f", ρ = {rho:g}{' rising' if rising else ''}"
    return f"{bits}{pull}{', codebooks tuned' if tuned else ''}"


def _lost(run: Run, against: str) -> np.ndarray:
    """+1 where the compressed network fails on an image that the other knew, −1 the other way."""
    if against == "control":
        other = _neighbour(run, "control")
    else:
        other = run
        while other.result["parent"]:
            other = _neighbour(other, "parent")
    return other.correct.astype(np.int8) - run.correct.astype(np.int8)


def _neighbour(run: Run, kind: str) -> Run:
    return runs.read(run.folder.parent / run.result[kind])
