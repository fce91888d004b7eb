"""A table is a list of columns: how one is read in a notebook, and in the README."""

from collections.abc import Callable, Mapping

import pandas as pd

from lib import data

#: A column's heading, how its values are written (None: as they are), and what it shows where it is
#: no column of the table.
Column = tuple[str, str | None] | tuple[str, str, Callable[[pd.DataFrame], pd.Series | None]]
Columns = Mapping[str, Column]

#: Columns that several tables have; others are called as they are.
KNOWN: Columns = {
    "what": ("network", "{}"),
    "asked": ("asked, %", "{:g}"),
    "reduction": ("MACs less, %", "{:.1f}"),
    "accuracy": ("accuracy, %", "{:.2f}"),
    "dense_accuracy": ("dense, %", "{:.2f}"),
    "control_accuracy": ("control, %", "{:.2f}"),
    "gain": ("against dense", "{:+.2f}"),
    "control_gain": ("against control", "{:+.2f}"),
    "drop_points": ("drop, points", "{:.2f}"),
    "control_drop": ("drop against control", "{:.2f}"),
    "nonzero_percent": ("nonzero, %", "{:.1f}"),
    "mean_bits": ("mean bits", "{:.2f}"),
    "rate": ("nominal rate", "{:,.0f}×"),
    "paper_rate": ("rate as in the paper", "{:,.1f}×"),
    "entropy_rate": ("entropy rate", "{:,.0f}×"),
    "file_bytes": ("file, bytes", "{:,.0f}"),
    "parameters": ("parameters", "{:,.0f}"),
    "epochs": ("epochs", "{:.0f}"),
    "hours": ("hours", "{:.2f}"),
    "n": ("n", "{:.0f}"),
    "computed_in": ("computed in", "{}"),
}


def columns(names: str, **own: Column) -> Columns:
    """The columns of a table as it is read: those of ``KNOWN``, but for the table's own."""
    known = KNOWN | own
    return {name: known.get(name, (name, "{}")) for name in [*names.split(), "computed_in"]}


def shown(
    table: pd.DataFrame,
    columns: Columns,
    *,
    spread: bool = False,
    unknown: str = "–",
    waiting: str = "",
) -> pd.DataFrame:
    """A table as it is read: rounded, with units, ``unknown`` where nothing is stated.

    Parameters
    ----------
    columns
        What :func:`columns` gives. A column in which nothing is stated is left out, unless it is
        in ``waiting``.
    spread
        Whether the standard deviation, the column ``NAME_sd``, follows each mean that has one.
    """
    made = {}
    for name, (heading, form, *source) in columns.items():
        column = source[0](table) if source else table.get(name)
        if column is None or not (name in waiting.split() or column.notna().any()):
            continue
        cells = column.tolist()
        if form is not None:
            cells = [unknown if pd.isna(value) else form.format(value) for value in cells]
        if spread and f"{name}_sd" in table:
            pairs = zip(cells, table[f"{name}_sd"], strict=True)
            cells = [cell if pd.isna(sd) else f"{cell} ± {sd:.2f}" for cell, sd in pairs]
        made[heading] = cells
    return pd.DataFrame(made)


def text(table: pd.DataFrame, columns: Columns, **options) -> str:
    """:func:`shown` as text; empty where no row is."""
    return "" if table.empty else shown(table, columns, **options).to_string(index=False)


def numbers(table: pd.DataFrame, form: str = "{:.2f}") -> str:
    """A table of numbers as text; empty where no row is."""
    return "" if table.empty else table.to_string(index=False, float_format=form.format)


def headed(heading: str, said: str) -> str:
    """What is said, under a heading; empty where nothing is."""
    return said and f"{heading}\n{said}"


def markdown(table: pd.DataFrame) -> str:
    """A table of text as the README has it."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


def bullets(lines: str) -> str:
    """Lines as a Markdown list."""
    return "\n".join(f"- {line.strip()}" for line in lines.splitlines())


def none(name: str, dataset: str) -> str:
    """The line that stands where there is nothing to show yet."""
    return (
        f"No run of {name} is committed yet ({data.describe(dataset)}); "
        f"make reproduce DATASET={dataset} trains them."
    )
