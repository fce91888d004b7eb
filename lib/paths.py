"""Where everything lies. Nothing in the workbook depends on the working directory.

Two environment variables move the large folders elsewhere, to a scratch disk say:
``WORKBOOK_DATA`` (data sets) and ``WORKBOOK_RESULTS`` (run folders, tables, figures).
"""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
REPORTED = ROOT / "data" / "reported"

#: Data sets that every machine has, embedded or drawn: what is made from them is never committed.
APART = ("digits", "imagenet-sample")


def data() -> Path:
    """The folder of downloaded data sets."""
    return Path(os.environ.get("WORKBOOK_DATA", ROOT / "data"))


def results(dataset: str) -> Path:
    """The folder of a data set's runs, tables, figures; those of ``APART`` have their own."""
    root = Path(os.environ.get("WORKBOOK_RESULTS", ROOT / "results"))
    return root / dataset if dataset in APART else root


def runs(dataset: str) -> Path:
    """The folder of a data set's finished runs."""
    return results(dataset) / "runs"


def notebooks(dataset: str) -> Path:
    """The folder of executed notebooks and what they save, which git ignores."""
    folder = results(dataset) / "notebooks"
    return folder if dataset in APART else folder / dataset


def checkpoints() -> Path:
    """The folder of checkpoints and locks, which only unfinished runs need."""
    return Path(os.environ.get("WORKBOOK_RESULTS", ROOT / "results")) / "checkpoints"
