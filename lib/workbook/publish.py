"""What is published: ``python -m lib publish`` writes it from finished runs, and nothing else does.

The README's numbers, every block between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``, and the
tables and figures under ``results``, each figure with its data. They show the catalogue's runs, as
far as they are there; what a notebook explores has a folder of its own
(:mod:`lib.workbook.notebook`). Measured times come from a benchmark notebook's folder, which has to
be named: they depend on the machine and its load.
"""

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib import atomic, data, paths
from lib.workbook import experiments, plots, report
from lib.workbook.report.places import MIRROR, places
from lib.workbook.report.readme import BLOCKS, df_name
from lib.workbook.report.rows import ours

README = paths.ROOT / "README.md"

#: Tables of measurements that are published: those of notebooks 31, 90 and 91, and the coders'.
MEASURED = re.compile(
    r"(codebooks|dtypes|epoch|file|l1-ball|projection|sizes|threshold-gradients|thresholding"
    r"|training-projections|training-steps|speed-cifar10|speed-cifar10-jpeg)-(cpu|cuda)\.csv"
    r"|coders\.csv|nncodec\.csv"
)


def render(text: str) -> str:
    """``text`` with every block written anew. Raises ``ValueError`` for a block nobody knows."""

    def block(match: re.Match) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise ValueError(f"README block {name!r} is unknown: choose {', '.join(BLOCKS)}")
        return f"<!-- begin {name} -->\n{BLOCKS[name]()}\n<!-- end {name} -->"

    pattern = r"<!-- begin (?P<name>[\w-]+) -->\n.*?<!-- end (?P=name) -->"
    return re.sub(pattern, block, text, flags=re.DOTALL)


def publish() -> dict[str, list[Path]]:
    """Writes all that is published anew.

    Returns ``others``: files among the published ones that it does not write, so that they are from
    an older version or from somebody's hand; and ``uncommitted``: runs that are shown and that git
    does not hold yet. Raises ``Damaged`` for a run that is not whole; the README is written last.
    """
    text = render(README.read_text())
    written = draw()
    atomic.write(README, text.encode())
    folders = (_folder("tables"), _folder("figures"))
    there = [file for folder in folders for file in sorted(folder.glob("[!.]*"))]
    return {
        "others": [file for file in there if file not in written],
        "uncommitted": _uncommitted(paths.runs("mnist")),
    }


def take_measured(folder: Path) -> list[Path]:
    """Copies the measurements in ``folder``, a benchmark notebook's, to the published ones.

    Raises ``ValueError`` where it holds none.
    """
    files = [file for file in sorted(folder.glob("*.csv")) if MEASURED.fullmatch(file.name)]
    if not files:
        raise ValueError(
            f"{folder} holds no table of measurements: name the folder that notebook 31, 90 or 91 "
            "said it saves in (90 and 91 save with full=True)"
        )
    published = _folder("benchmarks")
    published.mkdir(parents=True, exist_ok=True)
    for file in files:
        atomic.write(published / file.name, file.read_bytes())
    return files


def _uncommitted(folder: Path) -> list[Path]:
    """The run folders that git does not hold as they are; none where there is no repository."""
    asked = ["git", "-C", str(folder), "status", "--porcelain", "-z", "--untracked-files=normal"]
    try:
        said = subprocess.run([*asked, "."], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    names = {Path(line[3:]).parts for line in said.split("\0") if line}
    return sorted({folder / parts[2] for parts in names if len(parts) > 2 and parts[:2] == RUNS})


#: Where git keeps run folders.
RUNS = ("results", "runs")


def _folder(kind: str) -> Path:
    """``tables``, ``figures`` or ``benchmarks`` of the real data sets, which share them."""
    return paths.results("mnist") / kind


def draw() -> set[Path]:
    """Writes the tables and figures of the finished runs into ``results``; returns the files.

    The data that a figure shows are written as CSV under its name
    (:mod:`lib.workbook.plots.figure_data`).
    """
    made, folder = tables(), _folder("figures")
    for name, table in made.items():
        report.save(table, name, _folder("tables"))
    written = {_folder("tables") / f"{name}.csv" for name in made}
    for name, figure in figures(made):
        plots.save(figure, name, folder)
        plots.figure_data.save(plots.figure_data.of(figure), folder / f"{name}.csv")
        plt.close(figure)
        written |= {folder / f"{name}.{kind}" for kind in ("png", "svg", "csv")}
    return written


def tables() -> dict[str, pd.DataFrame]:
    """Every published table by name, of the runs that are there; nothing is written.

    They are those that the notebooks make with ``dataset="mnist"``, ``"cifar10"`` and, as far as
    nothing exact stands in its place, ``"cifar10-jpeg"``.
    """
    finished, comparison, dataset = report.finished, report.comparison, "mnist"
    made = {
        "admm-table-3": ours(report.admm.committed_table_3()),
        "admm-figure-2": report.figure_2(report.admm.finished_histories()),
        **{
            f"admm-table-4-{name}": ours(report.table_4(rows, dataset=name))
            for name, rows in report.committed_rows_4().items()
        },
        "lc-results": report.lc.results_curve(finished(experiments.lc.curves(dataset))),
        **{
            f"head-to-head-{network}": comparison.head_to_head(dataset, network)
            for network in experiments.comparison.RATES[dataset]
        },
        "allocation-earns": comparison.weight_choices(dataset),
        **{df_name(place): report.df.curve(place.found) for place in places(experiments.df.curve)},
        "file-sizes": report.byte_budget.curve(finished(experiments.byte_budget.curve(dataset))),
    }
    return {name: table for name, table in made.items() if not table.empty}


def figures(made: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Every published figure with its name, drawn from :func:`tables` and the runs.

    A figure without finished runs is left out. The style of print holds while the caller saves a
    figure; the caller closes it.
    """
    with plt.style.context(plots.STYLE):
        yield from _figures_of_table_3()
        yield from _figures_of_table_4()
        for name, draw in DRAWN.items():
            if name in made:
                yield name, draw(made[name])
        yield from _figures_of_df(made)
        yield from _figures_of_benchmarks()


def _figures_of_table_3() -> Iterator[tuple[str, Figure]]:
    """Table 3's rates, the allocation in its rows, and Figure 2."""
    if rows := report.finished(experiments.table_3("mnist"), most=1):
        table = report.admm.committed_table_3()
        yield "admm-table-3-rates", plots.rates(table, title="LeNet-5 on MNIST")
        layers = {
            f"{run.result['budget']:,} bits, {report.label(run)}": run.layers
            for (run,) in rows
            if run.experiment["stages"][0]["method"] == "admm"  # tuning moves no bits
        }
        title = "ADMM Figure 3, LeNet-5 on MNIST"
        yield "admm-figure-3", _allocation(layers, title=title)
    if curves := report.admm.finished_histories():
        title = "ADMM Figure 2, LeNet-5 on MNIST"
        yield "admm-figure-2", plots.convergence(curves, title=title)


def _figures_of_table_4() -> Iterator[tuple[str, Figure]]:
    """Table 4's rates, and the allocation in each of its networks."""
    rows = report.committed_rows_4()
    if not any(rows.values()):
        return
    panels = {"cifar10": data.describe("cifar10")}
    if rows[MIRROR]:
        panels[MIRROR] = f"ours: {data.describe(MIRROR)}"
    table = pd.concat(report.admm.parts_4(rows).values())
    title = "ADMM Table 4: rate and drop"
    yield "admm-table-4-rates", plots.rates_by_network(table, panels=panels, title=title)
    for name, found in rows.items():
        for network, layers in report.allocations(found).items():
            title = f"nonzeros and bits of each layer, {network} on {data.describe(name)}"
            yield f"admm-figure-3-{network}-{name}", _allocation(layers, title=title)


def _allocation(layers: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    even = {label: report.uniform(table) for label, table in layers.items()}
    return plots.allocation(layers, references=even, title=title)


def _file_sizes(table: pd.DataFrame) -> Figure:
    curves = {
        "asked for in bytes": table,
        "asked for in nominal bits": report.byte_budget.nominal("mnist"),
        "MIRACLE, as published": report.reported("file_lenet5").rename(columns={"bytes": "file"}),
    }
    dense, title = table["dense_error"].mean(), "LeNet-5 on MNIST: error against the file's size"
    return plots.coders.files(curves, dense=dense, title=title)


#: Table of the comparisons → its figure.
DRAWN: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "lc-results": partial(plots.comparison.results_curve, title="LeNet-300-100 (tanh) on MNIST"),
    **{
        f"head-to-head-{network}": partial(
            plots.comparison.head_to_head, title=f"{network} on MNIST"
        )
        for network in experiments.comparison.RATES["mnist"]
    },
    "allocation-earns": partial(
        plots.comparison.earned,
        title="what the allocation earns: LeNet-300-100 on MNIST, {mnist:,.0f}×".format(
            **experiments.comparison.ALLOCATION_RATE
        ),
    ),
    "file-sizes": _file_sizes,
}


def _figures_of_df(made: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Figure 3a with the paper's rows, which are of ResNet-56."""
    paper = report.df.reported("df_table3", network="resnet56")
    for place in places(experiments.df.curve):
        name = df_name(place)
        panels = {
            f"reported: resnet56, {data.describe('cifar10')}": (None, paper),
            f"ours: {place.network}, {data.describe(place.dataset)}": (made[name], None),
        }
        yield name, plots.df.curve(panels, title="DF Figure 3a: accuracy against MACs")


def _figures_of_benchmarks() -> Iterator[tuple[str, Figure]]:
    """What the committed measurements show: the costs of projections, and the ladders of speed."""
    for file in sorted(_folder("benchmarks").glob("sizes-*.csv")):
        table = pd.read_csv(file)
        title = f"Time of a projection, 54 layers, {table['device'].iloc[0]}"
        name = "projection-costs" + ("" if file.stem == "sizes-cpu" else "-cuda")
        yield name, plots.costs(table, title=title)
    for file in sorted(_folder("benchmarks").glob("speed-*.csv")):
        table = pd.read_csv(file)
        title = "{network} on {dataset}, batch {batch}, {device}".format(**table.iloc[0])
        bars = table[table["step"] != "best loader, else as ours"]
        yield file.stem, plots.ladder(bars, title=title)
