"""Networks in files of a size: what they cost and what is lost."""

from collections.abc import Mapping

import pandas as pd

from lib.workbook import experiments
from lib.workbook.report import admm, rows
from lib.workbook.report.columns import columns, shown
from lib.workbook.report.rows import Runs, finished, reported

#: Result → what its column is called here.
CALLED = {"file_bytes": "file", "kept_fraction": "kept", "mean_bits": "bits"}


def curve(found: Mapping[int, Runs]) -> pd.DataFrame:
    """Bytes asked for → runs as a table: means over seeds, errors in % of the test split."""
    columns = (
        "file_bytes error error_sd dense_error control_error kept_fraction mean_bits nominal_rate n"
    )
    return rows.table(dict(sorted(found.items())), ["asked"], columns).rename(columns=CALLED)


def nominal(dataset: str) -> pd.DataFrame:
    """The rows of Table 3, whose budget was in nominal bits: ``label``, ``file`` and errors."""
    found = finished(experiments.table_3(dataset))
    columns = "file_bytes error error_sd"
    made = [{"label": admm.label(runs[0])} | rows.summary(runs, columns) for runs in found]
    return pd.DataFrame(made, columns=["label", *columns.split()]).rename(columns=CALLED)


#: :func:`curve`'s table as it is read, with the spread of its means.
CURVE = columns(
    "asked file error dense_error control_error kept nominal_rate n",
    asked=("asked, bytes", "{:,}"),
    file=("file, bytes", "{:,.0f}"),
    error=("error, %", "{:.2f}"),
    dense_error=("dense, %", "{:.2f}"),
    control_error=("dense trained on, %", "{:.2f}"),
    kept=("kept, %", "{:.2f}", lambda table: 100 * table["kept"]),
    nominal_rate=("nominal rate", "{:,.0f}×"),
    n=("n", None),
)


def beside_published(table: pd.DataFrame) -> str:
    """A line for each published file: its error, and that of our largest file that is no larger.

    ``table`` is :func:`curve`'s. A published file smaller than all of ours has none beside it. The
    last line counts those that are better than ours.
    """
    errors = shown(table, CURVE, spread=True)["error, %"]
    lines, gaps = [], []
    for other in reported("file_lenet5").itertuples():
        line = f"{other.method}, {other.bytes:,} bytes: {other.error:.2f} %"
        within = table["file"][table["file"] <= other.bytes]
        if len(within):
            ours = within.idxmax()
            more = table["error"][ours] - other.error
            gaps.append(more)
            line += (
                f"; ours, {within[ours]:,.0f} bytes: {errors[ours]} % (n = {table['n'][ours]}), "
                f"{abs(more):.2f} points {'more' if more > 0 else 'less'}"
            )
        lines.append(line)
    if gaps:
        better = sum(more > 0 for more in gaps)
        lines.append(f"Published files with a lower error than ours: {better} of {len(gaps)}.")
    return "\n".join(lines)


def files(found: Mapping[int, Runs]) -> tuple[pd.DataFrame, str, str]:
    """The curve as it is read, a heading for the published files, and those beside ours."""
    table = curve(found)
    source = reported("file_lenet5")["source"].iloc[0]
    heading = f"Published ({source}), and ours:"
    return shown(table, CURVE, spread=True), heading, beside_published(table)


def files_text(found: Mapping[int, Runs]) -> str:
    """The curve, and the published files."""
    table, heading, beside = files(found)
    return f"{table.to_string(index=False)}\n\n{heading}\n{beside}"
