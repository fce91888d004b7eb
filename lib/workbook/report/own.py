"""What ``lib.compress`` was measured on: ResNet-20 rounded, by hand, and timed."""

import pandas as pd

from lib.workbook import benchmarks
from lib.workbook.report.columns import columns

#: Rounding alone beside a uniform grid a tensor, in files of one format.
ROUNDING = columns(
    "bits grid_bytes grid_test bytes test ahead error seconds",
    bits=("bits of the grid", "{:.0f}"),
    grid_bytes=("grid, bytes", "{:,.0f}"),
    grid_test=("grid, %", "{:.2f}"),
    bytes=("rounding, bytes", "{:,.0f}"),
    test=("rounding, %", "{:.2f}"),
    ahead=("ahead, points", "{:+.2f}"),
    error=("standard error", "{:.2f}"),
    seconds=("seconds", "{:.0f}"),
)

#: Milliseconds of a forward pass.
LATENCY = columns(
    "variant macs pytorch_1_ms onnx_1_ms pytorch_128_ms onnx_128_ms",
    variant=("ResNet-20", "{}"),
    macs=("MACs", "{:,.0f}"),
    pytorch_1_ms=("1 image, PyTorch, ms", "{:.2f}"),
    onnx_1_ms=("1 image, ONNX Runtime, ms", "{:.2f}"),
    pytorch_128_ms=("128 images, PyTorch, ms", "{:.0f}"),
    onnx_128_ms=("128 images, ONNX Runtime, ms", "{:.0f}"),
)


def rounding() -> pd.DataFrame:
    """A row a width; accuracies and what rounding is ahead in points, with its standard error."""
    table = pd.read_csv(benchmarks.folder("cifar10") / "rounding-resnet20.csv")
    ours, grid = (table[table["method"] == name].set_index("bits") for name in ("rounding", "grid"))
    made = ours[["bytes", "seconds"]].assign(
        grid_bytes=grid["bytes"],
        grid_test=100 * grid["test"],
        test=100 * ours["test"],
        ahead=100 * (ours["test"] - grid["test"]),
        error=100 * ours["error"],
    )
    return made.sort_index(ascending=False).reset_index()


def latency() -> pd.DataFrame:
    """A row a variant; empty where it was not measured."""
    file = benchmarks.folder("cifar10") / "latency-resnet20-cpu.csv"
    return pd.read_csv(file) if file.exists() else pd.DataFrame()
