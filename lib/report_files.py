"""Networks in files of a size: what they cost and what is lost."""

import numpy as np
import pandas as pd

from lib import experiments, report
from lib.experiments import files
from lib.runs import Run


def finished(dataset: str) -> dict[int, list[Run]]:
    """Bytes asked for → the runs that are there."""
    found = {size: report.finished(run) for size, run in files.curve(dataset).items()}
    return {size: runs for size, runs in found.items() if runs}


def curve(found: dict[int, list[Run]]) -> pd.DataFrame:
    """A row a size: means over seeds, errors in % of the test split, ``error_sd`` over seeds."""
    return report.frame([_row(size, runs) for size, runs in sorted(found.items())])


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
        "computed_in": report.computed_in(runs),
    }


def nominal(dataset: str) -> pd.DataFrame:
    """The rows of Table 3, whose budget was in nominal bits: ``label``, ``file`` and errors."""
    found = [report.finished(row) for row in experiments.table_3(dataset)]
    return pd.DataFrame(
        [_row(0, runs) | {"label": report.label(runs[0])} for runs in found if runs],
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
            **report.shown_computed_in(table),
        }
    )


def committed_files() -> str:
    """MNIST's curve as text, with the published files."""
    found = finished("mnist")
    if not found:
        return "No file of LeNet-5 on MNIST yet."
    ours = printed(curve(found)).to_string(index=False)
    others = report.reported("file_lenet5").to_string(index=False)
    return f"{ours}\n\nPublished files of LeNet-5, error in %:\n{others}"
