"""Where everything lies. Nothing in the workbook depends on the working directory.

Two environment variables move the large folders elsewhere, to a scratch disk say:
``WORKBOOK_DATA`` (data sets) and ``WORKBOOK_RESULTS`` (run folders, tables, figures).
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTED = ROOT / "data" / "reported"

#: The data set that is embedded: what is made from it is never committed.
EMBEDDED = "digits"


def data() -> Path:
    """The folder of downloaded data sets."""
    return Path(os.environ.get("WORKBOOK_DATA", ROOT / "data"))


def results(dataset: str) -> Path:
    """The folder of a data set's runs, tables, figures: the embedded one's is kept apart."""
    root = Path(os.environ.get("WORKBOOK_RESULTS", ROOT / "results"))
    return root / EMBEDDED if dataset == EMBEDDED else root


def runs(dataset: str) -> Path:
    """The folder of a data set's finished runs."""
    return results(dataset) / "runs"


def checkpoints() -> Path:
    """The folder of checkpoints and locks, which only unfinished runs need."""
    return Path(os.environ.get("WORKBOOK_RESULTS", ROOT / "results")) / "checkpoints"
