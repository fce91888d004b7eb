"""Where an epoch's time goes: notebook 31's ladder of steps."""

import pandas as pd

from lib import data
from lib.workbook import benchmarks
from lib.workbook.report.columns import columns, text

#: The ladder as it is read: images a second, ratios, and on a GPU a step's launches and waits.
LADDER = columns(
    "step images_per_second times_before times_plain launches waits",
    images_per_second=("images/s", "{:,.0f}"),
    times_before=("times the one before", "{:.2f}×"),
    times_plain=("times the plain loop", "{:.2f}×"),
    launches=("launches", "{:,.0f}"),
    waits=("waits", "{:,.0f}"),
)


def speed_text() -> str:
    """The ladders that were measured, and where; one line where none was."""
    parts = []
    for file in sorted(benchmarks.folder("cifar10").glob("speed-*.csv")):
        table = pd.read_csv(file)
        first = table.iloc[0]
        where = first["device"] if first["device"] != "cpu" else f"{first['cpu']}, on the CPU"
        heading = (
            f"{first['network']} on {data.describe(first['dataset'])}, batch {first['batch']}; "
            f"{where}, {first['threads']} threads, torch {first['torch']}"
        )
        parts.append(f"{heading}\n{text(table, LADDER)}")
    return "\n\n".join(parts) or "Not measured on CIFAR yet; notebook 31 says how."
