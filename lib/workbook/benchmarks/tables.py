"""Tables of the benchmark notebooks: the published ones, and which no GPU has measured yet.

A notebook saves what it measures in its own folder; ``python -m lib publish --measured FOLDER``
takes it over from there.
"""

import os
from pathlib import Path

import pandas as pd
import torch

from lib import paths
from lib.training import arithmetic

#: Notebook → the data set that its full measurement takes, and the last table of a GPU that it
#: saves: once that is there, the notebook has been measured on one.
FULL = {
    "90-benchmarks": ("mnist", "threshold-gradients"),
    "91-training-steps": ("imagenet", "training-projections"),
}

#: Tables that are measured on the CPU wherever the notebook runs.
OF_CPU = ("file",)


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


def file_name(table: str, device: str) -> str | None:
    """What a notebook saves a table as; nothing for a table of the CPU where it runs on a GPU."""
    kind = device.split(":")[0]
    return None if table in OF_CPU and kind != "cpu" else f"{table}-{kind}"


def missing_on_gpu() -> list[str]:
    """The commands that would measure what no GPU has measured yet: the check, the notebooks."""
    notebooks = [
        f"papermill notebooks/{notebook}.ipynb full.ipynb -p full True -p dataset {dataset} "
        "-p device cuda"
        for notebook, (dataset, table) in FULL.items()
        if not (folder(dataset) / f"{table}-cuda.csv").exists()
    ]
    return notebooks if gpu_checks() else ["python -m lib gpu-check", *notebooks]


def gpu_checks() -> dict[str, pd.DataFrame]:
    """The table of ``python -m lib gpu-check`` of each GPU that ran it, by the GPU's name."""
    files = sorted(folder("mnist").glob("gpu-check-*.csv"))
    tables = [pd.read_csv(file, dtype={"commit": str, "cuda": str}) for file in files]
    return {table["device"].iloc[0]: table for table in tables if table["cuda"].notna().all()}


def gpu_said() -> str:
    """For the README: what GPUs have shown, a line each, or that none has."""
    lines = [f"- {name}: {_summary(table)}" for name, table in gpu_checks().items()]
    return "\n".join(lines) or (
        "**No number of a GPU is ours**: none has run `make gpu-check` yet, and nothing in this "
        "workbook was measured on one."
    )


def committed_counted() -> str:
    """What projections, steps and periods ask of a GPU, before → after, as text.

    ``tests/count_calls.py`` counts it on a pretend one.
    """
    file = folder("mnist") / "counted.csv"
    if not file.exists():
        return "Not counted yet; python -m tests.count_calls counts."
    counted = pd.read_csv(file)
    names = counted["what"].unique()
    numbers = counted.set_index(["code", "what"]).drop(columns="note").map("{:,.0f}".format)
    numbers = numbers.replace("nan", "×")  # where the call ends with an error
    before, after = (
        numbers.reindex([(code, name) for name in names], fill_value="–").droplevel("code")
        for code in ("before", "after")
    )
    return (before + " → " + after).reset_index().to_string(index=False)


def _summary(table: pd.DataFrame) -> str:
    judged = table["verdict"].value_counts()
    said = [f"{judged.get('passed', 0)} checks passed, {judged.get('FAILED', 0)} failed"]
    for part, unit, text in (
        ("projections", "times sort and cumsum", "choosing the weights takes {:.2f} "),
        ("epochs", "times SGD", "an epoch of ADMM {:.2f} "),
    ):
        rows = table[(table["part"] == part) & (table["unit"] == unit)]
        rows = rows[rows["what"] == "admm"] if part == "epochs" else rows
        said += [text.format(value) + unit for value in rows["value"]]
    first = table.iloc[0]
    return f"{'; '.join(said)} (torch {first['torch']}, commit {str(first['commit'])[:7]})"


def folder(dataset: str) -> Path:
    """Where the published measurements lie."""
    return paths.results(dataset) / "benchmarks"
