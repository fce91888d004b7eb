"""The README's generated blocks: what stands between ``begin NAME`` and ``end NAME``."""

from collections.abc import Callable
from functools import partial

import pandas as pd

from lib import data
from lib.workbook import benchmarks, experiments
from lib.workbook.report import admm, byte_budget, comparison, df, lc, own
from lib.workbook.report.columns import Columns, bullets, columns, markdown, none, shown
from lib.workbook.report.committed import COMMITTED
from lib.workbook.report.places import Place, places
from lib.workbook.report.rows import finished, ours


def picture(name: str, said: str) -> str:
    """A published figure, as Markdown."""
    return f"![{said}](results/figures/{name}.png)"


def _block(table: pd.DataFrame, columns: Columns, **options) -> str:
    return markdown(shown(table, columns, unknown="", **options))


# -------------------------------------------------------------------------------------------- ADMM


def _method(table: pd.DataFrame) -> pd.Series:
    """Ours in bold."""
    return table["method"].mask(table["source"] == "ours", "**" + table["method"] + "**")


def _said(table: pd.DataFrame, *, of: str, **forms: str) -> pd.Series:
    """Each row in the words of its source; NaN where the number ``of`` is not known."""
    said = [forms[row["source"]].format(**row) for row in table.to_dict("records")]
    return pd.Series(said, table.index).where(table[of].notna())


#: Ours with their interval.
_drops = partial(
    _said,
    of="drop_points",
    ours="{drop_points:.2f} [{drop_low:.2f}, {drop_high:.2f}] over {interval_over}, n = {n:.0f}",
)
_levels = partial(
    _said,
    of="accuracy",
    ours="{dense_accuracy:.2f} → {accuracy:.2f} %",
    reported="{dense_accuracy:.1f} → {accuracy:.1f} %",
)


TABLE_3 = columns(
    "method nonzero_percent mean_bits rate drops verdict levels entropy_rate file_bytes",
    method=("LeNet-5 on MNIST", "{}", _method),
    nonzero_percent=("nonzero", "{:.1f} %"),
    mean_bits=("bits", "{:.2f}"),
    drops=("drop, points", "{}", partial(_drops, reported="{drop_points:.1f}")),
    levels=("dense → compressed", "{}", _levels),
)

MODES = {"joint": "joint", "prune": "pruning only", "quantize": "quantization only"}

TABLE_4 = columns(
    "network method mode nonzero_percent mean_bits paper_rate drops verdict levels control_drop "
    "entropy_rate file_bytes epochs",
    method=("method", "{}", _method),
    mode=("mode", "{}", lambda table: table["mode"].map(MODES)),
    nonzero_percent=("nonzero", "{:.1f} %"),
    mean_bits=("bits", "{:.2f}"),
    paper_rate=("rate", "{:,.1f}×"),
    drops=("drop, points", "{}", partial(_drops, reported="{drop_points:.2f}")),
    levels=("dense → compressed", "{}", _levels),
    entropy_rate=("entropy rate", "{:,.1f}×"),
    epochs=("epochs", "{}", admm.schedules),
)


def _table_3() -> str:
    return _block(admm.committed_table_3(), TABLE_3)


def _control() -> str:
    """How the same rows stand against the fine-tuned dense control, and how accurate they are."""
    table = admm.committed_table_3()
    return (
        "Against the dense network trained on by the same schedule without compression, the rows "
        f"of ours lose {', '.join(map('{:.2f}'.format, ours(table)['control_drop']))} points, in "
        f"this order. {admm.levels(table)}"
    )


def _figure_2() -> str:
    """The paper's claims about Figure 2, on the committed curves."""
    curves = admm.finished_histories()
    if not set(experiments.FIGURE_2_RHOS) <= set(curves):
        return "Figure 2's four curves are not all there yet."
    return bullets(admm.figure_2_claims(admm.figure_2(curves)))


def _table_4() -> str:
    """The paper's rows and ours of the same pixels, then ours of the mirror's."""
    rows, parts = admm.committed_rows_4(), []
    for name, table in admm.parts_4(rows).items():
        parts += [f"{data.describe(name)}:", _block(table, TABLE_4)]
    drawn = picture("admm-table-4-rates", "Drop against rate, the paper's rows and ours")
    return "\n\n".join([*parts, drawn if any(rows.values()) else none("Table 4", "cifar10")])


# --------------------------------------------------------------------------------------- comparison


def _head_to_head() -> str:
    """Each network's table, and which method wins where."""
    parts = []
    for network, table, said in comparison.by_network():
        what = f"Test error of each method against rate and epochs, {network}"
        table = table.rename(columns={"asked": f"{network}, asked"})
        parts += [markdown(table), bullets(said), picture(f"head-to-head-{network}", what)]
    return "\n\n".join(parts)


CHOICES = columns(
    "what accuracy rate epochs n",
    what=("LeNet-300-100 on MNIST", "{}"),
)


def _earned() -> str:
    gains = comparison.choice_gains(comparison.weight_choices_by_seed("mnist"))
    table = comparison.weight_choices("mnist")
    return "" if table.empty else f"{_block(table, CHOICES, spread=True)}\n\n{bullets(gains)}"


# ---------------------------------------------------------------------------------------------- DF


def df_name(place: Place) -> str:
    """What DF's published table and figure of a place are called."""
    return f"df-curve-{place.dataset}{'-full' if place.length == 'full' else ''}"


CURVE = columns(
    "asked reduction parameters accuracy gain verdict control_gain n hours",
    asked=("MACs less, asked", "{:g} %"),
    reduction=("built", "{:.1f} %"),
    control_gain=("against dense trained on", "{:+.2f}"),
)


def _df() -> str:
    parts = []
    for place in places(experiments.df.curve):
        table = df.curve(place.found).sort_values(["asked", "method"], key=_in_order)
        network = f"{place.network}, {data.describe(place.dataset)}"
        parts += [
            _block(table, {"method": (network, "{}"), **CURVE}),
            bullets(df.verdict(place.found)),
            picture(df_name(place), "Accuracy against MACs"),
        ]
    return "\n\n".join(parts)


def _in_order(column: pd.Series) -> pd.Series:
    names = list(df.NAMES.values())
    return column.map(names.index) if column.name == "method" else column


def _files() -> str:
    found = finished(experiments.byte_budget.curve("mnist"))
    if not found:
        return ""
    table, heading, beside = byte_budget.files(found)
    drawn = picture("file-sizes", "Error against the file's size")
    return "\n\n".join([markdown(table), heading, bullets(beside), drawn])


def _latency() -> str:
    table = own.latency()
    if table.empty:
        return "Not measured yet: `python results/benchmarks/scripts/latency.py`."
    first = table.iloc[0]
    return f"{_block(table, own.LATENCY)}\n\n{first['cpu']}, one thread, torch {first['torch']}."


def _or_none(name: str, said: Callable[[], str]) -> Callable[[], str]:
    """What is said, or the line that stands where a committed table's runs are missing."""
    return lambda: said() or none(*COMMITTED[name][:2])


#: Block → what writes it.
BLOCKS: dict[str, Callable[[], str]] = {
    "table-3": _table_3,
    "control": _control,
    "figure-2": _figure_2,
    "table-4": _table_4,
    "lc": _or_none("claims", lambda: bullets(lc.claims())),
    "head-to-head": _or_none("head-to-head", _head_to_head),
    "earned": _or_none("earned", _earned),
    "df": _or_none("df-curve", _df),
    "files": _or_none("files", _files),
    "gpu": benchmarks.gpu_said,
    "rounding": lambda: _block(own.rounding(), own.ROUNDING),
    "latency": _latency,
}
