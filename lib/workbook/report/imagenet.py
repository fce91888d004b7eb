"""ADMM's Table 2: run folders in, rows out, the paper's beside ours."""

from collections.abc import Iterable, Sequence

import pandas as pd

from lib import data
from lib.networks import pretrained
from lib.optimizers import METHODS
from lib.workbook import experiments, runs
from lib.workbook.experiments import Experiment
from lib.workbook.report import admm
from lib.workbook.report.columns import columns, text
from lib.workbook.report.rows import Runs, finished, ours

#: What our rows are called, by the first stage's method and the mode.
NAMES = {
    ("admm", "joint"): "ADMM (ours)",
    ("admm", "quantize"): "ADMM (ours)",
    ("tune-codebooks", "quantize"): "k-means, one width (ours)",
    ("magnitude", "fixed-bitwidth"): "Fixed-Bitwidth (ours)",
    ("magnitude", "deep-compression"): "Deep Compression (ours)",
}


def table_2(rows: Sequence[Runs], *, dataset: str) -> pd.DataFrame:
    """ADMM's Table 2: the paper's rows, then ours, a row for each experiment's runs over seeds.

    Drops are in points, accuracies in percent. ``paper_rate`` is 32·n over the bits that the row
    pays, as the paper counts them: of every weight where it is only quantized
    (:func:`lib.accounting.paid`); ``rate`` is our nominal rate, of nonzero weights and values
    alone.
    """
    return admm.with_reported(2, [_row(found, dataset) for found in rows], data="imagenet")


def _row(found: Runs, dataset: str) -> dict[str, object]:
    run = found[0]
    mode = "quantize" if run.result["mode"] == "quantize" else "joint"
    method = run.experiment["stages"][0]["method"]
    name = NAMES.get((method, run.result["mode"])) or f"{METHODS[method].label} (ours)"
    made = admm.row(found, dataset, method=name, mode=mode)
    made["automated"] = "yes" if run.result["method"] == "admm" else "no"
    if mode == "quantize":  # the paper states no share
        made["nonzero_percent"] = float("nan")
    return made


#: The table as it is read.
TABLE_2 = columns(
    "network method mode nonzero_percent mean_bits paper_rate drop_points top5_drop_points "
    "control_drop dense_accuracy accuracy rate entropy_rate file_bytes",
    mean_bits=("mean bits", "{:.1f}"),
    paper_rate=("rate as in the paper", "{:.1f}×"),
    drop_points=("top-1 drop, points", "{:.2f}"),
    top5_drop_points=("top-5 drop", "{:.2f}"),
    accuracy=("compressed, %", "{:.2f}"),
    rate=("nominal rate", "{:.1f}×", lambda table: table["rate"].where(table["source"] == "ours")),
    entropy_rate=("entropy rate", "{:.1f}×"),
)


def needed(rows: Iterable[Experiment]) -> list[Experiment]:
    """The rows, and before each what it starts from and its control, each once."""
    found: dict[str, Experiment] = {}
    for row in rows:
        found |= {each.name: each for each in (*needed(row.needs), row)}
    return list(found.values())


def hybrids(*networks: str) -> list[Experiment]:
    """DF's rows of networks on ImageNet."""
    rows = (experiments.imagenet.hybrid("imagenet", network) for network in networks)
    return [row for of_network in rows for row in of_network.values()]


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
    wanted = {name: experiments.dense("imagenet", network=name) for name in networks}
    return [
        f"{name}: {pretrained.TOP_1[name]} % published, {100 * run.result['accuracy']:.2f} % here"
        for name, (run,) in finished(wanted, most=1).items()
    ]


def table_2_text() -> str:
    """ImageNet's measured rows, where there are any, and how many runs are missing."""
    rows = experiments.imagenet.table_2("imagenet")
    found, known, said = finished(rows), starts(rows), missing(rows, what="Table 2")
    if not found:
        return "\n".join([f"Not measured yet. {said}", *known])
    table = ours(table_2(found, dataset="imagenet"))
    return "\n".join([text(table, TABLE_2), "", *known, said])
