"""ADMM's Table 2: run folders in, rows out, the paper's beside ours."""

from collections.abc import Sequence

import pandas as pd

from lib import data
from lib.networks import pretrained
from lib.optimizers import METHODS
from lib.workbook import experiments, runs
from lib.workbook.experiments import Experiment
from lib.workbook.report import tables
from lib.workbook.runs import Run

#: What our rows are called, by the first stage's method and the mode.
NAMES = {
    ("admm", "joint"): "ADMM (ours)",
    ("admm", "quantize"): "ADMM (ours)",
    ("tune-codebooks", "quantize"): "k-means, one width (ours)",
    ("magnitude", "fixed-bitwidth"): "Fixed-Bitwidth (ours)",
    ("magnitude", "deep-compression"): "Deep Compression (ours)",
}


def finished(dataset: str) -> list[list[Run]]:
    """The runs of Table 2's rows that are there, row by row; nothing is trained."""
    return [
        found for row in experiments.imagenet.table_2(dataset) if (found := tables.finished(row))
    ]


def table_2(rows: Sequence[Sequence[Run]], *, dataset: str) -> pd.DataFrame:
    """ADMM's Table 2: the paper's rows, then ours, a row for each experiment's runs over seeds.

    Drops are in points, accuracies in percent. ``paper_rate`` is 32·n over the bits that the row
    pays, as the paper counts them: of every weight where it is only quantized
    (:func:`lib.accounting.paid`); ``rate`` is our nominal rate, of nonzero weights and values
    alone.
    """
    paper = tables.reported("admm_table2").assign(source="reported", data="imagenet")
    paper["paper_rate"] = paper["rate"]
    ours = tables.frame([_row(found, dataset) for found in rows])
    table = pd.concat([paper, ours], ignore_index=True) if len(ours) else paper
    differ = ours.columns.intersection(["computed_in"])
    return table.reindex(columns=list(dict.fromkeys([*paper.columns, *tables.OURS, *differ])))


def _row(found: Sequence[Run], dataset: str) -> dict[str, object]:
    run = found[0]
    mode = "quantize" if run.result["mode"] == "quantize" else "joint"
    method = run.experiment["stages"][0]["method"]
    name = NAMES.get((method, run.result["mode"])) or f"{METHODS[method].label} (ours)"
    made = tables.row(found, dataset, method=name, mode=mode)
    made["automated"] = "yes" if run.result["method"] == "admm" else "no"
    if mode == "quantize":  # the paper states no share
        made["nonzero_percent"] = float("nan")
    return made


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The table as it is read: rounded, with units, a dash where nothing is stated."""
    shown = tables.shown
    columns = {
        "network": table["network"],
        "method": table["method"],
        "mode": table["mode"],
        "nonzero, %": shown(table["nonzero_percent"], "{:.1f}"),
        "mean bits": shown(table["mean_bits"], "{:.1f}"),
        "rate as in the paper": shown(table["paper_rate"], "{:.1f}×"),
        "top-1 drop, points": shown(table["drop_points"], "{:.2f}"),
        "top-5 drop": shown(table["top5_drop_points"], "{:.2f}"),
        "drop against control": shown(table["control_drop"], "{:.2f}"),
        "dense, %": shown(table["dense_accuracy"], "{:.2f}"),
        "compressed, %": shown(table["accuracy"], "{:.2f}"),
        "nominal rate": shown(table["rate"].where(table["source"] == "ours"), "{:.1f}×"),
        "entropy rate": shown(table["entropy_rate"], "{:.1f}×"),
        "file, bytes": shown(table["file_bytes"], "{:,.0f}"),
        **tables.shown_computed_in(table),
    }
    found = pd.DataFrame(columns)
    return found.loc[:, (found != "–").any()]


def needed(rows: Sequence[Experiment]) -> list[Experiment]:
    """The rows, and before each what it starts from and its control, each once."""
    found: dict[str, Experiment] = {}
    for row in rows:
        before = [each for each in needed(row.needs) if each.name not in found]
        found |= {each.name: each for each in before} | {row.name: row}
    return list(found.values())


def missing(rows: Sequence[Experiment], *, what: str) -> str:
    """A line that says how many runs of ``what`` are missing, and what makes them."""
    left = [each for each in needed(rows) if runs.status(each, 0) != "done"]
    if not left:
        return f"Every run of {what} is there."
    dataset = left[0].dataset
    hours = sum(experiments.seconds(each, "cuda") for each in left) / 3600
    return (
        f"{what} on {data.describe(dataset)}: {len(left)} runs missing, starts and controls "
        f"counted, by the catalogue's guess {hours:,.0f} hours of a data-centre GPU; "
        f"python -m lib run --missing --dataset {dataset}"
    )


def starts(rows: Sequence[Experiment]) -> list[str]:
    """What the published networks that rows start from know here, a line for each measured one."""
    networks = dict.fromkeys(row.network for row in rows)
    found = [
        (name, tables.finished(experiments.dense("imagenet", network=name), most=1))
        for name in networks
    ]
    return [
        f"{name}: {pretrained.TOP_1[name]} % published, {100 * run.result['accuracy']:.2f} % here"
        for name, runs_ in found
        for run in runs_
    ]


def committed_table_2() -> str:
    """ImageNet's measured rows, where there are any, and how many runs are missing, as text."""
    found, rows = finished("imagenet"), experiments.imagenet.table_2("imagenet")
    said = missing(rows, what="Table 2")
    known = starts(rows)
    if not found:
        return "\n".join([f"Not measured yet. {said}", *known])
    table = table_2(found, dataset="imagenet")
    shown = printed(table[table["source"] == "ours"]).to_string(index=False)
    return "\n".join([shown, "", *known, said])
