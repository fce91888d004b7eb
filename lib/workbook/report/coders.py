"""Where a file's bytes go, and what other coders make of the same weights.

``results/benchmarks/scripts/measure_coders.py`` makes the committed table.
"""

import itertools
import math
from collections.abc import Sequence

import pandas as pd
from torch import nn

from lib import accounting, archive, paths
from lib.layers import compressible
from lib.workbook import benchmarks, experiments
from lib.workbook.report import admm
from lib.workbook.report.columns import columns, text
from lib.workbook.report.rows import Runs, finished, mean
from lib.workbook.runs import Run

#: The parts of a coded layer, in bits, under the names that every table of layers uses.
PARTS = {"position_bits": "positions", "value_bits": "values", "codebook_bits": "codebooks"}

#: Coder → what a reader calls it. The first two are counts, not files.
CODERS = {
    "nominal": "nominal bits",
    "entropy": "zero-order entropy",
    "archive": "this file",
    "deep_compression": "Deep Compression",
    "zstd": "zstd",
    "nncodec": "nncodec",
}


def layers(model: nn.Module) -> dict[str, pd.DataFrame]:
    """Count or coder → a row for each compressible layer: ``name`` and the bits of :data:`PARTS`.

    ``nominal`` charges values alone, bits times nonzeros.
    """
    weights = compressible(model)
    costs = accounting.layer_costs(weights)
    free = dict.fromkeys(("position_bits", "codebook_bits"), 0)
    coded = archive.sizes(archive.Archive(model.state_dict()))
    coded["name"] = coded["name"].str.removesuffix(".weight")
    tables = {
        "nominal": costs.assign(**free, value_bits=costs["nominal_bits"]),
        "entropy": costs,
        "archive": coded.set_index("name").loc[list(weights)].reset_index(),
        "deep_compression": benchmarks.coders.deep_compression(weights),
    }
    return {coder: table[["name", *PARTS]] for coder, table in tables.items()}


def bytes_by_part(content: bytes) -> pd.Series:
    """Every byte of the file ``content``, which :func:`lib.archive.encode` made.

    ``positions``, ``values`` and ``codebooks`` are those of layers' weights, ``rest`` what the
    coded stream holds of other tensors (biases, normalisation), ``header`` names, shapes, version
    and checksum, ``end`` what the stream's last words leave unused. They sum to the file's size.
    """
    parts = archive.parts(content)
    layers = parts[parts["shape"].str.contains("×", na=False)]
    totals = parts.drop(layers.index).set_index("name")["total"]
    made = {
        "positions": layers["positions"].sum(),
        "values": layers["values"].sum(),
        "codebooks": layers["codebook"].sum(),
        "rest": totals.drop(["header", "checksum", "rounding"]).sum(),
        "header": totals["header"] + totals["checksum"],
    }
    return pd.Series(made | {"end": len(content) - sum(made.values())})


def file_parts(run: Run) -> dict[str, float]:
    """What the file of the final network holds, in bytes, as a run's tables state it.

    As :func:`bytes_by_part`; ``biases`` are all that is no layer's weight, ``frame`` the rest.
    """
    parts = bytes_by_part(run.file(run.state()))
    return {
        **parts[["values", "positions", "codebooks"]],
        "biases": parts["rest"],
        "frame": parts["header"] + parts["end"],
    }


def coders(model: nn.Module, **named) -> dict[str, float | int | str]:
    """One row: the bytes of the weights under each count and coder, and those of the whole file.

    nncodec's are measured elsewhere. ``named`` is what :func:`lib.archive.write` takes.
    """
    weights = compressible(model)
    by_layer = layers(model)
    packed = benchmarks.coders.zstd(weights)
    layout = min(packed, key=packed.get)

    def size(coder: str, *parts: str) -> int:
        return math.ceil(by_layer[coder][list(parts)].to_numpy().sum() / 8)

    # positions and values alone: the codebook is coded where the entropy counts floats
    codes = ("position_bits", "value_bits")
    return {
        "weights": sum(weight.numel() for weight in weights.values()),
        "kept": sum(int(weight.count_nonzero()) for weight in weights.values()),
        **{coder: size(coder, *PARTS) for coder in by_layer},
        **{f"{coder}_codes": size(coder, *codes) for coder in ("entropy", "archive")},
        "zstd": packed[layout],
        "zstd_layout": layout,
        **bytes_by_part(archive.encode(model, **named)).add_prefix("file_"),
    }


def committed_runs() -> dict[str, Run]:
    """Label → run, seed 0: the committed LeNet-5 rows of Table 3 and of LC, ResNet-20's joint one.

    Rows whose codebooks were only tuned have the zeros and widths of an earlier one and are left
    out.
    """
    wanted = [
        *experiments.table_3("mnist"),
        experiments.comparison.head_to_head("mnist", "lenet5", "lc", 2_000),
    ]
    names = {"lenet5": "LeNet-5", "resnet20": "ResNet-20"}
    labelled: dict[str, Run] = {}
    for run, *_ in itertools.chain(finished(wanted, most=1), *admm.committed_rows_4().values()):
        network, method, mode = (run.result[k] for k in ("network", "method", "mode"))
        wanted = network == "lenet5" or (network, mode) == ("resnet20", "joint")
        if wanted and run.weights.exists():
            label = f"{names[network]}, {method.upper()} {run.result['nominal_rate']:,.0f}×"
            labelled.setdefault(label, run)
    return labelled


def measured() -> pd.DataFrame:
    """The committed table of coders, a row a network, bytes; nncodec's NaN where not measured."""
    folder = paths.results("mnist") / "benchmarks"
    table = pd.read_csv(folder / "coders.csv")
    file = folder / "nncodec.csv"
    if not file.exists():
        return table.assign(nncodec=float("nan"))
    others = pd.read_csv(file)
    others["nncodec"] = others["stream_bytes"] + others["codebook_bytes"]
    return table.merge(others[["network", "nncodec"]], on="network", how="left")


#: A table of :func:`coders`'s rows as it is read.
CODED = columns(
    f"label kept {' '.join(CODERS)}",
    label=("network", "{}"),
    kept=("kept, %", "{:.1f}", lambda table: 100 * table["kept"] / table["weights"]),
    **{coder: (name, "{:,.0f}") for coder, name in CODERS.items()},
)


def coders_text() -> str:
    """The committed table of coders, and under it the whole files, part by part."""
    table = measured()
    parts = table.filter(like="file_").rename(columns=lambda name: name.removeprefix("file_"))
    whole = parts.assign(file=parts.sum(axis=1)).map("{:,.0f}".format)
    whole.insert(0, "network", table["label"])
    return (
        "Positions, values and codebooks, bytes\n"
        f"{text(table, CODED, unknown='not measured', waiting='nncodec')}\n\n"
        f"The whole file, bytes\n{whole.to_string(index=False)}"
    )


def file_parts_text(rows: Sequence[Runs]) -> str:
    """What the files of rows of Table 3 hold, in bytes, means over seeds."""
    parts = pd.DataFrame([pd.DataFrame(map(file_parts, runs)).mean() for runs in rows])
    shown = parts.assign(total=parts.sum(axis=1)).round().astype(int)
    names = [f"{mean(runs, 'nominal_rate'):,.0f}×, {admm.label(runs[0])}" for runs in rows]
    shown.insert(0, "row", names)
    return shown.assign(largest=parts.idxmax(axis=1)).to_string(index=False)
