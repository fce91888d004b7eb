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
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lib import atomic, data, paths
from lib.workbook import benchmarks, experiments, plots, report
from lib.workbook.runs import Run

README = paths.ROOT / "README.md"

#: Tables of measurements that are published: those of notebooks 31, 90 and 91, and the coders'.
MEASURED = re.compile(
    r"(codebooks|dtypes|epoch|file|l1-ball|projection|sizes|threshold-gradients|thresholding"
    r"|training-projections|training-steps|speed-cifar10|speed-cifar10-jpeg)-(cpu|cuda)\.csv"
    r"|coders\.csv|nncodec\.csv"
)

#: The data set of Table 4's committed runs.
MIRROR = "cifar10-jpeg"


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
    made, written = tables(), set()
    for name, table in made.items():
        report.save(table, name, _folder("tables"))
        written.add(_folder("tables") / f"{name}.csv")
    for name, figure in figures(made):
        plots.save(figure, name, _folder("figures"))
        plots.figure_data.save(plots.figure_data.of(figure), _folder("figures") / f"{name}.csv")
        plt.close(figure)
        written |= {_folder("figures") / f"{name}.{kind}" for kind in ("png", "svg", "csv")}
    return written


def tables() -> dict[str, pd.DataFrame]:
    """Every published table by name, of the runs that are there; nothing is written.

    They are those that the notebooks make with ``dataset="mnist"``, ``"cifar10"`` and, as far as
    nothing exact stands in its place, ``"cifar10-jpeg"``.
    """
    made = {
        "admm-table-3": _ours(report.table_3(_rows(), dataset="mnist")),
        "admm-figure-2": report.figure_2(_curves()),
        **{
            f"admm-table-4-{name}": _ours(report.table_4(rows, dataset=name))
            for name, rows in report.committed_rows_4().items()
        },
        "lc-results": report.comparison.results_curve(report.comparison.finished_curves("mnist")),
        **{
            f"head-to-head-{network}": report.comparison.head_to_head("mnist", network)
            for network in experiments.comparison.RATES["mnist"]
        },
        "allocation-earns": report.comparison.earned("mnist"),
        **{_df_name(place): report.df.curve(place.found) for place in _df_places()},
        "file-sizes": report.byte_budget.curve(report.byte_budget.finished("mnist")),
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
        yield from _figures_of_comparison(made)
        yield from _figures_of_df(made)
        yield from _figures_of_files(made)
        yield from _figures_of_benchmarks()


def _ours(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["source"] == "ours"]


def _figures_of_table_3() -> Iterator[tuple[str, Figure]]:
    """Table 3's rates, the allocation in its rows, and Figure 2."""
    if rows := _rows():
        table = report.table_3(rows, dataset="mnist")
        yield "admm-table-3-rates", plots.rates(table, title="LeNet-5 on MNIST")
        layers = {
            f"{runs[0].result['budget']:,} bits, {report.label(runs[0])}": runs[0].layers
            for runs in rows
            if runs[0].experiment["stages"][0]["method"] == "admm"  # tuning moves no bits
        }
        title = "ADMM Figure 3, LeNet-5 on MNIST"
        yield "admm-figure-3", _allocation(layers, title=title)
    if curves := _curves():
        title = "ADMM Figure 2, LeNet-5 on MNIST"
        yield "admm-figure-2", plots.convergence(curves, title=title)


def _figures_of_table_4() -> Iterator[tuple[str, Figure]]:
    """Table 4's rates, and the allocation in each of its networks."""
    rows = {name: found for name, found in report.committed_rows_4().items() if found}
    if not rows:
        return
    exact, mirrored = (
        report.table_4(rows.get(name, []), dataset=name) for name in ("cifar10", MIRROR)
    )
    panels = {"cifar10": data.describe("cifar10")}
    if MIRROR in rows:
        panels[MIRROR] = f"ours: {data.describe(MIRROR)}"
    table, title = pd.concat([exact, _ours(mirrored)]), "ADMM Table 4: rate and drop"
    yield "admm-table-4-rates", plots.rates_by_network(table, panels=panels, title=title)
    for name, found in rows.items():
        for network, layers in report.allocations(found).items():
            title = f"nonzeros and bits of each layer, {network} on {data.describe(name)}"
            yield f"admm-figure-3-{network}-{name}", _allocation(layers, title=title)


def _allocation(layers: Mapping[str, pd.DataFrame], *, title: str) -> Figure:
    even = {label: report.uniform(table) for label, table in layers.items()}
    return plots.allocation(layers, references=even, title=title)


def _figures_of_comparison(made: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """LC's figure of results, the methods head to head, and what the allocation earns."""
    if "lc-results" in made:
        title = "LeNet-300-100 (tanh) on MNIST"
        yield "lc-results", plots.comparison.results_curve(made["lc-results"], title=title)
    for network in experiments.comparison.RATES["mnist"]:
        name, title = f"head-to-head-{network}", f"{network} on MNIST"
        if name in made:
            yield name, plots.comparison.head_to_head(made[name], title=title)
    if "allocation-earns" in made:
        asked = experiments.comparison.ALLOCATION_RATE["mnist"]
        title = f"what the allocation earns: LeNet-300-100 on MNIST, {asked:,.0f}×"
        yield "allocation-earns", plots.comparison.earned(made["allocation-earns"], title=title)


def _rows() -> list[list[Run]]:
    """Table 3's runs on MNIST, those of an experiment together, as far as there are any."""
    found = [report.finished(experiment) for experiment in experiments.table_3("mnist")]
    return [runs for runs in found if runs]


def _table_3() -> str:
    table = report.table_3(_rows(), dataset="mnist")
    ours = table["source"] == "ours"
    shown = pd.DataFrame(
        {
            "LeNet-5 on MNIST": table["method"].where(~ours, "**" + table["method"] + "**"),
            "nonzero": table["nonzero_percent"].map("{:.1f} %".format),
            "bits": table["mean_bits"].map("{:.2f}".format),
            "nominal rate": table["rate"].map("{:,.0f}×".format),
            "drop, points": _drops(table),
            "verdict": report.shown(table["verdict"], "{}", unknown=""),
            "dense → compressed": _accuracies(table),
            "entropy rate": table["entropy_rate"].map("{:,.0f}×".format).where(ours, ""),
            "file, bytes": report.shown(table["file_bytes"], "{:,.0f}", unknown=""),
            **report.shown_computed_in(table),
        }
    )
    return _markdown(shown)


def _control() -> str:
    """How the same runs stand against the dense network trained on, and how accurate they are."""
    table = report.table_3(_rows(), dataset="mnist")
    drops = ", ".join(map("{:.2f}".format, _ours(table)["control_drop"]))
    return (
        "Against the dense network trained on by the same schedule without compression, the rows "
        f"of ours lose {drops} points, in this order. {report.levels(table)}"
    )


def _figure_2() -> str:
    """The paper's claims about Figure 2, on the committed curves."""
    curves = _curves()
    if not set(experiments.FIGURE_2_RHOS) <= set(curves):
        return "Figure 2's four curves are not all there yet."
    lines = report.figure_2_claims(report.figure_2(curves)).splitlines()
    return "\n".join(f"- {line}" for line in lines)


def _curves() -> dict[float, pd.DataFrame]:
    """ρ → the history of Figure 2's curve of seed 0, as far as they are there."""
    found = {
        rho: report.finished(experiment, most=1)
        for rho, experiment in experiments.figure_2("mnist").items()
        if rho in experiments.FIGURE_2_RHOS
    }
    return {rho: runs[0].history for rho, runs in found.items() if runs}


def _table_4() -> str:
    """The paper's rows and ours of the same pixels, then ours of the mirror's."""
    rows = report.committed_rows_4()
    parts = []
    for name, found in rows.items():
        table = report.table_4(found, dataset=name)
        table = table if name == "cifar10" else _ours(table)
        if len(table):
            parts += [f"{data.describe(name)}:", _markdown(_shown_4(table))]
    if not any(rows.values()):
        return "\n\n".join([*parts, report.committed_table_4()])
    picture = "results/figures/admm-table-4-rates.png"
    return "\n\n".join([*parts, f"![Drop against rate, the paper's rows and ours]({picture})"])


def _shown_4(table: pd.DataFrame) -> pd.DataFrame:
    modes = {"joint": "joint", "prune": "pruning only", "quantize": "quantization only"}

    def stated(column: str, form: str) -> list[str]:
        return report.shown(table[column], form, unknown="")

    ours = table["source"] == "ours"
    made = pd.DataFrame(
        {
            "network": table["network"],
            "method": table["method"].where(~ours, "**" + table["method"] + "**"),
            "mode": table["mode"].map(modes),
            "nonzero": stated("nonzero_percent", "{:.1f} %"),
            "bits": stated("mean_bits", "{:.2f}"),
            "rate": stated("paper_rate", "{:,.1f}×"),
            "drop, points": _drops(table, "{:.2f}"),
        }
    )
    if not ours.any():
        return made
    return made.assign(
        **{
            "verdict": stated("verdict", "{}"),
            "dense → compressed": _accuracies(table),
            "drop against control": stated("control_drop", "{:.2f}"),
            "entropy rate": stated("entropy_rate", "{:,.1f}×"),
            "file, bytes": stated("file_bytes", "{:,.0f}"),
            "epochs": report.printed(table)["epochs, dense + then"].tolist(),
            **report.shown_computed_in(table),
        }
    )


def _drops(table: pd.DataFrame, reported: str = "{:.1f}") -> list[str]:
    return [
        f"{row['drop_points']:.2f} [{row['drop_low']:.2f}, {row['drop_high']:.2f}] "
        f"over {row['interval_over']}, n = {row['n']:.0f}"
        if row["source"] == "ours"
        else reported.format(row["drop_points"])
        for _, row in table.iterrows()
    ]


def _accuracies(table: pd.DataFrame) -> list[str]:
    places = table["source"].map({"ours": 2, "reported": 1})
    return [
        "" if pd.isna(after) else f"{before:.{n}f} → {after:.{n}f} %"
        for before, after, n in zip(table["dense_accuracy"], table["accuracy"], places, strict=True)
    ]


def _head_to_head() -> str:
    """Each network's table, and which method wins where."""
    parts = []
    for network in experiments.comparison.RATES["mnist"]:
        table = report.comparison.head_to_head("mnist", network)
        if table.empty:
            continue
        shown = report.comparison.printed(table).rename(columns={"asked": f"{network}, asked"})
        said = report.comparison.verdict(report.comparison.by_seed("mnist", network))
        wins = "\n".join(f"- {line}" for line in said.splitlines())
        parts += [_markdown(shown), wins]
        picture = f"results/figures/head-to-head-{network}.png"
        parts.append(f"![Test error of each method against rate and epochs, {network}]({picture})")
    return "\n\n".join(parts) or report.comparison.committed_head_to_head()


def _lc() -> str:
    claims = report.comparison.committed_claims().splitlines()
    return "\n".join(f"- {claim.strip()}" for claim in claims)


def _earned() -> str:
    table = report.comparison.earned("mnist")
    if table.empty:
        return report.comparison.committed_earned()
    spread = table["accuracy_sd"].map(" ± {:.2f}".format).where(table["n"] > 1, "")
    said = report.comparison.worth(report.comparison.earned_by_seed("mnist"))
    parts = "\n".join(f"- {line}" for line in said.splitlines())
    rows = _markdown(
        pd.DataFrame(
            {
                "LeNet-300-100 on MNIST": table["what"],
                "accuracy, %": table["accuracy"].map("{:.2f}".format) + spread,
                "nominal rate": table["rate"].map("{:,.0f}×".format),
                "epochs": table["epochs"],
                "n": table["n"],
                **report.shown_computed_in(table),
            }
        )
    )
    return f"{rows}\n\n{parts}"


def _df_places() -> list[report.df.Place]:
    """DF's rows and its baselines', as far as there are runs."""
    return report.df.places(experiments.df.curve)


def _df_name(place: report.df.Place) -> str:
    return f"df-curve-{place.dataset}{'-full' if place.length == 'full' else ''}"


def _df() -> str:
    parts = []
    for place in _df_places():
        table = report.df.curve(place.found).sort_values(["asked", "method"], key=_order)
        lines = "\n".join(f"- {line}" for line in report.df.verdict(place.found).splitlines())
        picture = f"![Accuracy against MACs](results/figures/{_df_name(place)}.png)"
        parts += [_markdown(_shown_df(place, table)), lines, picture]
    return "\n\n".join(parts) or report.none("DF's Table 3", "cifar10")


def _shown_df(place: report.df.Place, table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            f"{place.network}, {data.describe(place.dataset)}": table["method"],
            "MACs less, asked": table["asked"].map("{:g} %".format),
            "built": table["reduction"].map("{:.1f} %".format),
            "parameters": table["parameters"].map("{:,.0f}".format),
            "accuracy, %": table["accuracy"].map("{:.2f}".format),
            "against dense": table["gain"].map("{:+.2f}".format),
            "verdict": table["verdict"],
            "against dense trained on": table["control_gain"].map("{:+.2f}".format),
            "n": table["n"],
            "hours": table["hours"].map("{:.2f}".format),
            **report.shown_computed_in(table),
        }
    )


def _order(column: pd.Series) -> pd.Series:
    names = list(report.df.NAMES.values())
    return column.map(names.index) if column.name == "method" else column


def _figures_of_df(made: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    """Figure 3a with the paper's rows, which are of ResNet-56."""
    paper = report.df.reported("df_table3", network="resnet56")
    for place in _df_places():
        name = _df_name(place)
        panels = {
            f"reported: resnet56, {data.describe('cifar10')}": (None, paper),
            f"ours: {place.network}, {data.describe(place.dataset)}": (made[name], None),
        }
        yield name, plots.df.curve(panels, title="DF Figure 3a: accuracy against MACs")


def _files() -> str:
    found = report.byte_budget.finished("mnist")
    if not found:
        return "No file of LeNet-5 on MNIST yet."
    curve = report.byte_budget.curve(found)
    table = report.byte_budget.printed(curve)
    source = report.reported("file_lenet5")["source"].iloc[0]
    said = "\n".join(
        f"- {line}" for line in report.byte_budget.beside_published(curve).splitlines()
    )
    picture = "![Error against the file's size](results/figures/file-sizes.png)"
    return f"{_markdown(table)}\n\nPublished ({source}), and ours:\n\n{said}\n\n{picture}"


def _figures_of_files(made: Mapping[str, pd.DataFrame]) -> Iterator[tuple[str, Figure]]:
    if "file-sizes" not in made:
        return
    table = made["file-sizes"]
    curves = {
        "asked for in bytes": table,
        "asked for in nominal bits": report.byte_budget.nominal("mnist"),
        "MIRACLE, as published": report.reported("file_lenet5").rename(columns={"bytes": "file"}),
    }
    dense = float(table["dense_error"].mean())
    title = "LeNet-5 on MNIST: error against the file's size"
    yield "file-sizes", plots.coders.files(curves, dense=dense, title=title)


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


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "table-3": _table_3,
    "control": _control,
    "figure-2": _figure_2,
    "table-4": _table_4,
    "lc": _lc,
    "head-to-head": _head_to_head,
    "earned": _earned,
    "df": _df,
    "files": _files,
    "gpu": benchmarks.gpu_said,
}
