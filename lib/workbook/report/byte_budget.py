"""Networks in files of a size: what they cost and what is lost."""

import numpy as np
import pandas as pd

from lib.workbook import experiments
from lib.workbook.report import tables
from lib.workbook.runs import Run


def finished(dataset: str) -> dict[int, list[Run]]:
    """Bytes asked for → the runs that are there."""
    found = {
        size: tables.finished(run) for size, run in experiments.byte_budget.curve(dataset).items()
    }
    return {size: runs for size, runs in found.items() if runs}


def curve(found: dict[int, list[Run]]) -> pd.DataFrame:
    """A row a size: means over seeds, errors in % of the test split, ``error_sd`` over seeds."""
    return tables.frame([_row(size, runs) for size, runs in sorted(found.items())])


def _row(size: int, runs: list[Run]) -> dict[str, float]:
    def mean(key: str) -> float:
        return float(np.mean([run.result[key] for run in runs]))

    errors = [100 * (1 - run.result["accuracy"]) for run in runs]
    return {
        "asked": size,
        "file": mean("file_bytes"),
        "error": float(np.mean(errors)),
        "error_sd": float(np.std(errors, ddof=1)) if len(errors) > 1 else float("nan"),
        "dense_error": 100 * (1 - mean("dense_accuracy")),
        "control_error": 100 * (1 - mean("control_accuracy")),
        "kept": mean("kept_fraction"),
        "bits": mean("mean_bits"),
        "nominal_rate": mean("nominal_rate"),
        "n": len(runs),
        "computed_in": tables.computed_in(runs),
    }


def nominal(dataset: str) -> pd.DataFrame:
    """The rows of Table 3, whose budget was in nominal bits: ``label``, ``file`` and errors."""
    found = [tables.finished(row) for row in experiments.table_3(dataset)]
    return pd.DataFrame(
        [_row(0, runs) | {"label": tables.label(runs[0])} for runs in found if runs],
        columns=["label", "file", "error", "error_sd"],
    )


def printed(table: pd.DataFrame) -> pd.DataFrame:
    """The curve as it is read."""
    spread = table["error_sd"].map(" ± {:.2f}".format).where(table["n"] > 1, "")
    return pd.DataFrame(
        {
            "asked, bytes": table["asked"].map("{:,}".format),
            "file, bytes": table["file"].map("{:,.0f}".format),
            "error, %": table["error"].map("{:.2f}".format) + spread,
            "dense, %": table["dense_error"].map("{:.2f}".format),
            "dense trained on, %": table["control_error"].map("{:.2f}".format),
            "kept, %": (100 * table["kept"]).map("{:.2f}".format),
            "nominal rate": table["nominal_rate"].map("{:,.0f}×".format),
            "n": table["n"],
            **tables.shown_computed_in(table),
        }
    )


def beside_published(table: pd.DataFrame) -> str:
    """A line for each published file: its error, and that of our largest file that is no larger.

    ``table`` is :func:`curve`'s. A published file smaller than all of ours has none beside it. The
    last line counts those that are better than ours.
    """
    errors = printed(table)["error, %"]
    lines, gaps = [], []
    for other in tables.reported("file_lenet5").itertuples():
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


def committed_files() -> str:
    """MNIST's curve as text, with the published files."""
    found = finished("mnist")
    if not found:
        return "No file of LeNet-5 on MNIST yet."
    table = curve(found)
    ours = printed(table).to_string(index=False)
    source = tables.reported("file_lenet5")["source"].iloc[0]
    return f"{ours}\n\nPublished ({source}), and ours:\n{beside_published(table)}"
