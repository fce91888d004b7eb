"""Tables of the benchmark notebooks: the published ones, and which no GPU has measured yet.

A notebook saves what it measures in its own folder; ``python -m lib publish --measured FOLDER``
takes it over from there.
"""

import os
from pathlib import Path

import pandas as pd
import torch

from lib import arithmetic, paths

#: Notebook → the data set that its full measurement takes, and the last table that it saves.
FULL = {
    "90-benchmarks": ("mnist", "file"),
    "91-training-steps": ("imagenet", "training-projections"),
}


def machine(device: str, *, threads: int) -> dict[str, str | int]:
    """What seconds belong to: the device's name, and the columns that every table ends with."""
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "cpu": arithmetic.processor(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "torch": torch.__version__,
    }


def committed(name: str) -> pd.DataFrame:
    """The full measurements that came with the workbook, from every kind of device."""
    files = sorted(folder("mnist").glob(f"{name}-*.csv"))
    return pd.concat(map(pd.read_csv, files), ignore_index=True) if files else pd.DataFrame()


def missing_on_gpu() -> list[str]:
    """The commands that would measure what no GPU has measured yet, one a notebook."""
    return [
        f"papermill notebooks/{notebook}.ipynb full.ipynb -p full True -p dataset {dataset} "
        "-p device cuda"
        for notebook, (dataset, table) in FULL.items()
        if not (folder(dataset) / f"{table}-cuda.csv").exists()
    ]


def folder(dataset: str) -> Path:
    """Where the published measurements lie."""
    return paths.results(dataset) / "benchmarks"
