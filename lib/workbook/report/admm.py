"""ADMM's tables and figures of MNIST and CIFAR-10: the papers' rows, and ours beside them."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lib import accounting, data
from lib.workbook import experiments
from lib.workbook.report.columns import columns, headed, text
from lib.workbook.report.places import MIRROR, places
from lib.workbook.report.rows import (
    Runs,
    finished,
    frame,
    histories,
    interval,
    last_epochs,
    length,
    mean,
    ours,
    reported,
    summary,
    taken,
)
from lib.workbook.runs import Run

#: What our rows state and the paper's do not.
OURS = (
    "drop_sd drop_low drop_high interval_over verdict control_drop n dense_accuracy accuracy "
    "entropy_rate file_bytes"
)


def features() -> pd.DataFrame:
    """ADMM Table 1: which automated method has which feature; the tables that have rows of it."""
    table = reported("admm_table1")
    there = {number: set(reported(f"admm_table{number}")["method"]) for number in (2, 3, 4)}
    rows = [", ".join(str(n) for n in there if name in there[n]) for name in table["method"]]
    return table.rename(columns={"end_to_end": "end-to-end"}).assign(**{"rows in tables": rows})


def table_3(rows: Sequence[Runs], *, dataset: str) -> pd.DataFrame:
    """ADMM Table 3: the paper's rows, then ours, a row for each experiment's runs over seeds.

    Ours also have the absolute accuracy (%), the drop against the fine-tuned dense control, the
    entropy rate and the bytes of the network's file. The paper states the accuracy of its own dense
    network; its compressed one has that less the drop.
    """
    paper = reported("admm_table3").assign(source="reported", data="mnist")
    paper["automated"] = paper["automated"] == "yes"
    paper["accuracy"] = paper["dense_accuracy"] - paper["drop_points"]
    made = frame([row(found, dataset) for found in rows if found])
    stated = paper.columns.difference(OURS.split(), sort=False)
    return taken(pd.concat([paper, made]), [*stated, *OURS.split()])


def committed_table_3() -> pd.DataFrame:
    """:func:`table_3` of MNIST."""
    return table_3(finished(experiments.table_3("mnist")), dataset="mnist")


def levels(table: pd.DataFrame) -> str:
    """The accuracies of Table 3's networks, which a drop does not show: ours and the paper's.

    Ours are those of ``table`` (:func:`table_3`) at the paper's nominal rate and beyond.
    """
    (paper,) = table[(table["source"] == "reported") & table["accuracy"].notna()].to_dict("records")
    beyond = ours(table)[ours(table)["rate"] >= paper["rate"]]

    def between(column: str) -> str:
        return f"{beyond[column].min():.2f} to {beyond[column].max():.2f} %"

    if beyond.empty:
        return f"No row of ours is at the paper's rate of {paper['rate']:,.0f}×."
    return (
        f"At the paper's rate of {paper['rate']:,.0f}× and beyond, our compressed networks "
        f"({len(beyond)} rows) have {between('accuracy')}; "
        f"the paper's has {paper['accuracy']:.1f} %. "
        f"Our dense networks have {between('dense_accuracy')}; "
        f"the paper's has {paper['dense_accuracy']:.1f} %."
    )


def table_4(rows: Sequence[Runs], *, dataset: str) -> pd.DataFrame:
    """ADMM Table 4: the paper's rows, then ours, a row for each experiment's runs over seeds.

    As :func:`table_3`; besides, the network, the mode (``joint``, ``prune`` or ``quantize``), the
    epochs of the dense network and of what followed, and ``paper_rate``: 32·n over the bits that
    the mode's budget counts (:func:`lib.accounting.paid`). For joint rows it is ``rate``, our
    nominal rate. When only quantizing, every weight pays and zero is a value like others, which
    ``rate``, of nonzero weights and nonzero values, flatters; when only pruning, so does a layer so
    small that its values would fit a codebook. ``mean_bits`` is over the weights that pay.
    """
    made = [row(found, dataset) | _epochs(found[0]) for found in rows if found]
    return with_reported(4, made, "dense_epochs", "epochs", data="cifar10")


def with_reported(number: int, rows: Sequence[dict], *more: str, data: str) -> pd.DataFrame:
    """A table of the paper, whose rows are of ``data``, then our rows, with columns ``OURS``."""
    paper = reported(f"admm_table{number}").assign(source="reported", data=data)
    paper["paper_rate"] = paper["rate"]
    table = pd.concat([paper, frame(rows)], ignore_index=True)
    return taken(table, [*paper.columns, *OURS.split(), *more])


def uniform(table: pd.DataFrame) -> pd.DataFrame:
    """A layer table whose budget is spent evenly: the same share kept and bits in every layer."""
    share = table["kept"].sum() / table["weights"].sum()
    bits = (table["kept"] * table["bits"]).sum() / table["kept"].sum()
    return table.assign(kept=(share * table["weights"]).round().astype(int), bits=bits)


def allocations(rows: Sequence[Runs]) -> dict[str, dict[str, pd.DataFrame]]:
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
    made = last_epochs(histories, "rho")
    mse = [history.set_index("epoch")["mse"] for history in histories.values()]
    made["mse_peak"] = [path.max() for path in mse]
    made["mse_peak_epoch"] = [path.idxmax() for path in mse]
    columns = (
        "rho loss compressed_loss mse_first mse_peak mse_peak_epoch mse accuracy "
        "compressed_accuracy"
    )
    made = made.reindex(columns=columns.split())
    return made.rename(columns=lambda name: name.replace("compressed", "quantized"))


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


def committed_rows_4() -> dict[str, list[list[Run]]]:
    """Table 4's runs, those of an experiment together, of CIFAR-10 and of its JPEG mirror."""

    def wanted(dataset: str, network: str = "", length: str = "full") -> dict:
        return experiments.table_4(dataset, length=length)

    found: dict[str, list[list[Run]]] = {"cifar10": [], MIRROR: []}
    for place in places(wanted):
        found[place.dataset] += place.found.values()
    return found


# ----------------------------------------------------------------------------------- rows of ours


def row(
    compressed: Runs, dataset: str, *, method: str | None = None, mode: str | None = None
) -> dict:
    """A row of ours: an experiment's runs over seeds, the drops as means of paired differences.

    ``mode`` says what the budget counts (:func:`lib.accounting.paid`), the run's own unless given;
    ``method`` is the row's name.
    """
    first, lost = compressed[0], interval(compressed)
    mode = mode or first.result["mode"]
    paid = [accounting.paid(run.layers, mode) for run in compressed]
    bits = np.array([(spent["weights"] * spent["bits"]).sum() for spent in paid])
    columns = "network rate drop drop_sd control_drop n entropy_rate file_bytes computed_in"
    known = summary(compressed, f"{columns} kept_percent")
    return known | {
        "mode": mode,
        "method": method or f"ADMM (ours, {label(first)})",
        "source": "ours",
        "data": dataset,
        "automated": True,
        "nonzero_percent": known["kept_percent"],
        "mean_bits": bits.sum() / sum(spent["weights"].sum() for spent in paid),
        "paper_rate": float(np.mean(32 * first.layers["weights"].sum() / bits)),
        "drop_points": known["drop"],
        "drop_low": lost.low,
        "drop_high": lost.high,
        "interval_over": lost.over,
        "verdict": lost.verdict,
        "dense_accuracy": 100 * mean(compressed, "dense_accuracy"),
        "accuracy": 100 * mean(compressed, "accuracy"),
    }


def _epochs(run: Run) -> dict[str, int]:
    """How long the dense network was trained, and how long what followed took."""
    experiment, after = run.experiment, 0
    while "parent" in experiment:
        after += length(experiment)
        experiment = experiment["parent"]
    return {"dense_epochs": length(experiment), "epochs": after}


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


# ------------------------------------------------------------------------------------ as it is read


def schedules(table: pd.DataFrame) -> pd.Series | None:
    """Epochs of the dense network and of what followed, of our rows of Table 4; else None."""
    if "epochs" not in table:
        return None
    known = zip(table["dense_epochs"], table["epochs"], strict=True)
    return pd.Series([None if pd.isna(a) else f"{a:.0f} + {b:.0f}" for a, b in known], dtype=object)


#: Table 3 as it is read; what it has not is Table 4's.
TABLE_3 = columns(
    "network method mode data nonzero_percent mean_bits paper_rate rate drop_points drop_sd "
    "verdict n schedules control_drop dense_accuracy accuracy entropy_rate file_bytes",
    drop_sd=("sd", "{:.2f}"),
    schedules=("epochs, dense + then", "{}", schedules),
    accuracy=("compressed, %", "{:.2f}"),
)
TABLE_4 = TABLE_3 | {"rate": ("nominal rate", "{:,.1f}×")}


def parts_4(rows: Mapping[str, Sequence[Runs]]) -> dict[str, pd.DataFrame]:
    """Data set → Table 4 of its pixels: the paper's rows and ours on CIFAR-10, else ours alone."""
    made = {name: table_4(found, dataset=name) for name, found in rows.items()}
    return {
        name: part
        for name, table in made.items()
        if len(part := table if name == "cifar10" else ours(table))
    }


def table_4_text() -> str:
    """Table 4, of each data set by itself; empty where no run is there."""
    rows = committed_rows_4()
    if not any(rows.values()):
        return ""
    shown = {name: column for name, column in TABLE_4.items() if name != "data"}
    parts = parts_4(rows).items()
    return "\n\n".join(headed(data.describe(name), text(part, shown)) for name, part in parts)


def finished_histories() -> dict[float, pd.DataFrame]:
    """The paper's ρ → the history of its curve of seed 0 on MNIST, as far as they are there."""
    found = histories(experiments.figure_2("mnist"))
    return {rho: found[rho] for rho in found if rho in experiments.FIGURE_2_RHOS}


def layers_text(rows: Sequence[Runs]) -> str:
    """Figure 3's allocation in rows of Table 3, of seed 0."""
    parts = []
    for run, *_ in rows:
        layers, even = run.layers, uniform(run.layers)
        table = layers[["name", "weights", "kept", "bits"]].assign(
            kept_percent=(100 * layers["kept"] / layers["weights"]).map("{:.2f}".format),
            uniform_kept=even["kept"],
            uniform_bits=even["bits"].map("{:.2f}".format),
        )
        rate = f"{run.result['nominal_rate']:,.0f}×, {label(run)}"
        parts.append(f"{rate}\n{table.to_string(index=False)}")
    return "\n\n".join(parts)
